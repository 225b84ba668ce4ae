from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User


class SshKey(Model):
    """A public key that signs its user in on what is allocated to them.

    `line` is type and base64 as `authorized_keys` takes them. A user has a key once.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="ssh_keys", on_delete=fields.CASCADE
    )
    user_id: UUID
    name = fields.CharField(max_length=64)
    algorithm = fields.CharField(max_length=64)
    fingerprint = fields.CharField(max_length=64)
    line = fields.TextField()
    comment = fields.CharField(max_length=255)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "ssh_key"
        unique_together = (("user", "fingerprint"),)

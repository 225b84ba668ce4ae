from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User


class IdempotencyKey(Model):
    """A call that was made with a key: the same call again gives the same objects for a day."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="idempotency_keys", on_delete=fields.CASCADE
    )
    user_id: UUID
    mutation = fields.CharField(max_length=64)
    key = fields.CharField(max_length=128)
    #: SHA-256 of the input without the key, in hexadecimal.
    input_hash = fields.CharField(max_length=64)
    #: The object that it made or changed, and the operation that it began.
    object_id = fields.UUIDField(null=True)
    operation_id = fields.UUIDField(null=True)
    created_at = fields.BigIntField(db_index=True)

    class Meta(Model.Meta):
        table = "idempotency_key"
        unique_together = (("user", "mutation", "key"),)

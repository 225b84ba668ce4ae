from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Machine


class RevokedKey(Model):
    """A public key that a machine had before its host was enrolled anew.

    It never serves a machine again, and a host that still has it is told that it was revoked:
    unique by an index of the migrations.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="revoked_keys", on_delete=fields.CASCADE
    )
    machine_id: UUID
    public_key = fields.BinaryField()
    revoked_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "revoked_key"
        indexes = (("machine_id",),)

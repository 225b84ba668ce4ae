from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Machine
from remotegpu_core.models.user import User


class Enrollment(Model):
    """Permission for one host to become a machine, behind a token that is stored as a hash.

    `machine` is the machine that it makes, or with `replaces` the one whose key it replaces.
    `public_key` is the key that redeemed it.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    token_hash = fields.CharField(max_length=64, unique=True)
    machine_name = fields.CharField(max_length=63)
    labels: list[list[str]] = fields.JSONField(default=list)
    machine: fields.ForeignKeyNullableRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="enrollments", on_delete=fields.CASCADE, null=True
    )
    machine_id: UUID | None
    replaces = fields.BooleanField(default=False)
    created_by: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="enrollments", on_delete=fields.SET_NULL, null=True
    )
    created_by_id: UUID | None
    created_at = fields.BigIntField()
    expires_at = fields.BigIntField()
    redeemed_at = fields.BigIntField(null=True)
    revoked_at = fields.BigIntField(null=True)
    public_key = fields.BinaryField(null=True)

    class Meta(Model.Meta):
        table = "enrollment"
        indexes = (("machine_id",), ("created_by_id",))

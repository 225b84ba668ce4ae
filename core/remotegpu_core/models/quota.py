from uuid import UUID

from tortoise import fields
from tortoise.migrations.constraints import CheckConstraint
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Workspace


class Quota(Model):
    """What a user, or a workspace, may have at a time: exactly one of the two.

    A limit that is null is none for a workspace; for a user it is the setting's.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    user: fields.OneToOneNullableRelation[User] = fields.OneToOneField(
        "remotegpu.User", related_name="quota", on_delete=fields.CASCADE, null=True
    )
    user_id: UUID | None
    workspace: fields.OneToOneNullableRelation[Workspace] = fields.OneToOneField(
        "remotegpu.Workspace", related_name="quota", on_delete=fields.CASCADE, null=True
    )
    workspace_id: UUID | None
    gpus = fields.IntField(null=True)
    allocations = fields.IntField(null=True)
    #: GPU-hours that may be booked in a calendar month (UTC).
    gpu_hours = fields.IntField(null=True)

    class Meta(Model.Meta):
        table = "quota"
        constraints = (
            CheckConstraint(
                name="quota_of_one", check="(user_id IS NULL) <> (workspace_id IS NULL)"
            ),
        )

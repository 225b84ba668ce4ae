from enum import StrEnum
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User


class WorkspaceRole(StrEnum):
    """What a member may do in a workspace."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    MEMBER = "MEMBER"
    VIEWER = "VIEWER"


class Workspace(Model):
    """A group of people who share machines."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    name = fields.CharField(max_length=64)
    name_key = fields.CharField(max_length=64, unique=True)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "workspace"


class Membership(Model):
    id = fields.UUIDField(primary_key=True, default=new_id)
    workspace: fields.ForeignKeyRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="memberships", on_delete=fields.CASCADE
    )
    workspace_id: UUID
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="memberships", on_delete=fields.CASCADE
    )
    user_id: UUID
    role = fields.CharEnumField(WorkspaceRole, max_length=16)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "membership"
        indexes = (("user_id",),)
        unique_together = (("workspace", "user"),)

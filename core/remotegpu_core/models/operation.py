from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Machine
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Workspace
from remotegpu_core.states import OperationState, StepState


class Operation(Model):
    """Something that takes time. `revision` grows by one with whatever changes in it or its steps.

    `change` is the value of the topic `operations` at its last change: what a process reads to
    find out what moved since it last looked.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    kind = fields.CharField(max_length=64)
    state = fields.CharEnumField(OperationState, max_length=16, default=OperationState.PENDING)
    #: From 0 to 1.
    progress = fields.FloatField(default=0.0)
    machine: fields.ForeignKeyNullableRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="operations", on_delete=fields.CASCADE, null=True
    )
    machine_id: UUID | None
    #: Not a foreign key: operations outlive what they were about.
    allocation_id = fields.UUIDField(null=True, db_index=True)
    #: Whose it is: they may see and cancel it, besides the admins.
    user: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="operations", on_delete=fields.CASCADE, null=True
    )
    user_id: UUID | None
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="operations", on_delete=fields.SET_NULL, null=True
    )
    workspace_id: UUID | None
    created_at = fields.BigIntField()
    finished_at = fields.BigIntField(null=True)
    cancel_requested_at = fields.BigIntField(null=True)
    error_code = fields.CharField(max_length=64, null=True)
    error_message = fields.CharField(max_length=2000, null=True)
    revision = fields.IntField(default=0)
    change = fields.BigIntField(default=0, db_index=True)

    class Meta(Model.Meta):
        table = "operation"
        indexes = (("machine_id",), ("workspace_id",))


class OperationStep(Model):
    """One step of an operation, in the order of `position`, with a name for people."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    operation: fields.ForeignKeyRelation[Operation] = fields.ForeignKeyField(
        "remotegpu.Operation", related_name="steps", on_delete=fields.CASCADE
    )
    operation_id: UUID
    position = fields.IntField()
    name = fields.CharField(max_length=64)
    state = fields.CharEnumField(StepState, max_length=16, default=StepState.PENDING)
    started_at = fields.BigIntField(null=True)
    finished_at = fields.BigIntField(null=True)
    detail = fields.CharField(max_length=2000, null=True)
    error_code = fields.CharField(max_length=64, null=True)
    error_message = fields.CharField(max_length=2000, null=True)

    class Meta(Model.Meta):
        table = "operation_step"
        unique_together = (("operation", "position"),)

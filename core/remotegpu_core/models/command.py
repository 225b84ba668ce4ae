from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Machine
from remotegpu_core.models.operation import Operation
from remotegpu_core.states import CommandState


class Command(Model):
    """The outbox: something that a host is to do, written with the change that wants it done.

    `sequence` orders the commands of a machine (a value of the topic `commands`); those of one
    allocation are done in that order. `generation` is the allocation's when it was written.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="commands", on_delete=fields.CASCADE
    )
    machine_id: UUID
    sequence = fields.BigIntField(unique=True)
    kind = fields.CharField(max_length=64)
    arguments: dict[str, Any] = fields.JSONField()
    #: Milliseconds since the Unix epoch, on the control plane's clock: not begun after it.
    deadline = fields.BigIntField()
    allocation_id = fields.UUIDField(null=True, db_index=True)
    generation = fields.IntField(default=0)
    operation: fields.ForeignKeyNullableRelation[Operation] = fields.ForeignKeyField(
        "remotegpu.Operation", related_name="commands", on_delete=fields.CASCADE, null=True
    )
    operation_id: UUID | None
    state = fields.CharEnumField(CommandState, max_length=16, default=CommandState.QUEUED)
    created_at = fields.BigIntField()
    #: When it was first given to a link.
    sent_at = fields.BigIntField(null=True)
    accepted_at = fields.BigIntField(null=True)
    finished_at = fields.BigIntField(null=True)
    cancel_requested_at = fields.BigIntField(null=True)
    result: dict[str, Any] | None = fields.JSONField(null=True)
    error_code = fields.CharField(max_length=64, null=True)
    error_message = fields.CharField(max_length=2000, null=True)

    class Meta(Model.Meta):
        table = "command"
        indexes = (("machine_id", "state", "sequence"), ("operation_id",))

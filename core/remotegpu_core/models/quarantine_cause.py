from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.allocation import Allocation
from remotegpu_core.models.machine import Gpu, Machine


class QuarantineCause(Model):
    """One reason to keep a machine out of use. `services.quarantine` alone writes these rows.

    A machine with a cause is never IN_SERVICE, and the cause of a failed cleaning stays until its
    allocation has a receipt (triggers). Nothing prunes causes. One machine has a code once for
    each allocation and GPU (a unique index of the migrations).
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="causes", on_delete=fields.CASCADE
    )
    machine_id: UUID
    #: The GPU that it is about, null when it is about the host.
    gpu: fields.ForeignKeyNullableRelation[Gpu] = fields.ForeignKeyField(
        "remotegpu.Gpu", related_name="causes", on_delete=fields.CASCADE, null=True
    )
    gpu_id: UUID | None
    #: The allocation that could not be cleaned.
    allocation: fields.ForeignKeyNullableRelation[Allocation] = fields.ForeignKeyField(
        "remotegpu.Allocation", related_name="causes", on_delete=fields.RESTRICT, null=True
    )
    allocation_id: UUID | None
    #: One of `services.quarantine.CauseCode`.
    code = fields.CharField(max_length=32)
    #: What is wrong, for all users who see the machine.
    message = fields.CharField(max_length=500)
    #: When it began, in milliseconds since the Unix epoch. A new message changes nothing in it.
    since = fields.BigIntField()

    class Meta(Model.Meta):
        table = "quarantine_cause"
        indexes = (("gpu_id",), ("allocation_id",))

from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.migrations.constraints import CheckConstraint
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Gpu, Machine
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Workspace
from remotegpu_core.states import AllocationState


class Allocation(Model):
    """A user's right to a machine, or to GPUs of it, for a time: [starts_at, ends_at).

    `machine` is null while it waits for one. `generation` grows with every change that the host
    must follow; a host refuses commands of an older one. One that has a generation ends only with
    a receipt, whatever the code does (a trigger).
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    state = fields.CharEnumField(AllocationState, max_length=16, default=AllocationState.PENDING)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="allocations", on_delete=fields.RESTRICT
    )
    user_id: UUID
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="allocations", on_delete=fields.SET_NULL, null=True
    )
    workspace_id: UUID | None
    machine: fields.ForeignKeyNullableRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="allocations", on_delete=fields.RESTRICT, null=True
    )
    machine_id: UUID | None
    whole_machine = fields.BooleanField(default=False)
    #: GPUs that count against quotas: those booked, or asked for while it waits.
    gpu_count = fields.IntField(default=0)
    #: What was asked for, when it was not a machine by name (see `services.placement`).
    requirement: dict[str, Any] | None = fields.JSONField(null=True)
    #: Whether it waits for a place rather than failing without one.
    queued = fields.BooleanField(default=False)
    starts_at = fields.BigIntField()
    ends_at = fields.BigIntField()
    generation = fields.IntField(default=0)
    created_by: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="allocations_made", on_delete=fields.SET_NULL, null=True
    )
    created_by_id: UUID | None
    created_at = fields.BigIntField()
    activated_at = fields.BigIntField(null=True)
    #: When it was given back or ran out, and when its GPUs were free for the next one.
    ended_at = fields.BigIntField(null=True)
    released_at = fields.BigIntField(null=True)
    #: The shortest notice of its end that was given so far, in milliseconds.
    warned = fields.BigIntField(null=True)
    #: Why it failed.
    error_code = fields.CharField(max_length=64, null=True)
    error_message = fields.CharField(max_length=2000, null=True)
    #: Why its account's keys on the host are not its user's, while they are not.
    keys_error_code = fields.CharField(max_length=64, null=True)
    keys_error_message = fields.CharField(max_length=2000, null=True)

    class Meta(Model.Meta):
        table = "allocation"
        indexes = (
            ("state", "starts_at"),
            ("state", "ends_at"),
            # The orders of the list.
            ("created_at", "id"),
            ("starts_at", "id"),
            ("ends_at", "id"),
            ("created_by_id",),
        )


class Booking(Model):
    """A resource, that is a GPU or a whole machine, promised for a time: [starts_at, ends_at).

    No two that are `held` overlap on one resource: an exclusion constraint on PostgreSQL, triggers
    on SQLite. `resource_id` is the GPU's id, or the machine's. A whole machine books itself and
    each of its GPUs. What is occupied stays held (a trigger), and what is held is not available.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    allocation: fields.ForeignKeyRelation[Allocation] = fields.ForeignKeyField(
        "remotegpu.Allocation", related_name="bookings", on_delete=fields.CASCADE
    )
    allocation_id: UUID
    resource_id = fields.UUIDField(db_index=True)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="bookings", on_delete=fields.RESTRICT
    )
    machine_id: UUID
    gpu: fields.ForeignKeyNullableRelation[Gpu] = fields.ForeignKeyField(
        "remotegpu.Gpu", related_name="bookings", on_delete=fields.RESTRICT, null=True
    )
    gpu_id: UUID | None
    starts_at = fields.BigIntField()
    ends_at = fields.BigIntField()
    #: False once the time is given back: it binds nobody any more.
    held = fields.BooleanField(default=True)

    class Meta(Model.Meta):
        table = "booking"
        indexes = (("gpu_id",),)
        constraints = (CheckConstraint(name="booking_has_length", check="starts_at < ends_at"),)


class CleaningReceipt(Model):
    """What was found, removed and looked at again when an allocation ended.

    `verified` is false for one that an admin wrote by overriding; then `overridden_by` and
    `reason` say who and why. `items` are dicts of surface, action, found, removed, verified and
    detail. `simulated` receipts are of simulated hosts. One without either proof or reason is
    refused, and none changes afterwards (triggers).
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    allocation: fields.ForeignKeyRelation[Allocation] = fields.ForeignKeyField(
        "remotegpu.Allocation", related_name="receipts", on_delete=fields.RESTRICT
    )
    allocation_id: UUID
    verified = fields.BooleanField()
    simulated = fields.BooleanField(default=False)
    items: list[dict[str, Any]] = fields.JSONField(default=list)
    finished_at = fields.BigIntField()
    overridden_by: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="receipts_overridden", on_delete=fields.SET_NULL, null=True
    )
    overridden_by_id: UUID | None
    reason = fields.CharField(max_length=500, null=True)

    class Meta(Model.Meta):
        table = "cleaning_receipt"
        indexes = (("overridden_by_id",),)


class Occupancy(Model):
    """A resource that is in somebody's hands, from activation to the receipt.

    At most one is open on a resource (a partial unique index), and one is closed only with a
    receipt of its own allocation (a CHECK, a foreign key, a trigger), whatever the code does.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    allocation: fields.ForeignKeyRelation[Allocation] = fields.ForeignKeyField(
        "remotegpu.Allocation", related_name="occupancies", on_delete=fields.RESTRICT
    )
    allocation_id: UUID
    resource_id = fields.UUIDField(db_index=True)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="occupancies", on_delete=fields.RESTRICT
    )
    machine_id: UUID
    gpu: fields.ForeignKeyNullableRelation[Gpu] = fields.ForeignKeyField(
        "remotegpu.Gpu", related_name="occupancies", on_delete=fields.RESTRICT, null=True
    )
    gpu_id: UUID | None
    opened_at = fields.BigIntField()
    closed_at = fields.BigIntField(null=True)
    receipt: fields.ForeignKeyNullableRelation[CleaningReceipt] = fields.ForeignKeyField(
        "remotegpu.CleaningReceipt",
        related_name="occupancies",
        on_delete=fields.RESTRICT,
        null=True,
    )
    receipt_id: UUID | None

    class Meta(Model.Meta):
        table = "occupancy"
        indexes = (("gpu_id",), ("receipt_id",))
        constraints = (
            CheckConstraint(
                name="occupancy_closed_by_receipt",
                check="(closed_at IS NULL) = (receipt_id IS NULL)",
            ),
        )


class AllocationEvent(Model):
    """The log behind `allocationChanged`: what happened to which allocation, in commit order."""

    sequence = fields.BigIntField(primary_key=True, generated=False)
    allocation_id = fields.UUIDField(db_index=True)
    kind = fields.CharField(max_length=32)
    at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "allocation_event"

"""The log of what happened to allocations, in commit order, that `allocationChanged` reads."""

import uuid
from enum import StrEnum

from remotegpu_core.clock import now_ms
from remotegpu_core.models import AllocationEvent
from remotegpu_core.services.logs import ChangeLog
from remotegpu_core.versions import Topic, bump


class EventKind(StrEnum):
    CREATED = "CREATED"
    PLACED = "PLACED"
    STARTED = "STARTED"
    EXTENDED = "EXTENDED"
    GPUS_CHANGED = "GPUS_CHANGED"
    KEYS_FAILED = "KEYS_FAILED"
    KEYS_REPLACED = "KEYS_REPLACED"
    ENDING_SOON = "ENDING_SOON"
    RECLAIMING = "RECLAIMING"
    RELEASED = "RELEASED"
    FAILED = "FAILED"


async def record_event(allocation_id: uuid.UUID, kind: EventKind) -> None:
    """Log an event within the current transaction (a `ledger`)."""
    sequence = await bump(Topic.ALLOCATIONS)
    await AllocationEvent.create(
        sequence=sequence, allocation_id=allocation_id, kind=kind, at=now_ms()
    )


ALLOCATION_LOG = ChangeLog(
    AllocationEvent, Topic.ALLOCATIONS, subscription="allocationChanged", objects="allocations"
)

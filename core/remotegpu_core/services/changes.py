"""The log of what happened to machines, in commit order, that `machineChanged` reads."""

import uuid
from enum import StrEnum

from remotegpu_core.clock import now_ms
from remotegpu_core.errors import CursorExpired, InvalidInput
from remotegpu_core.models import MachineChange, Version
from remotegpu_core.versions import Topic, bump

#: Changes kept for those who come back with a cursor.
KEPT = 10_000
#: Changes read at once.
BATCH = 500


class ChangeKind(StrEnum):
    ENROLLED = "ENROLLED"
    PRESENCE_CHANGED = "PRESENCE_CHANGED"
    HEALTH_CHANGED = "HEALTH_CHANGED"
    INVENTORY_CHANGED = "INVENTORY_CHANGED"
    LIFECYCLE_CHANGED = "LIFECYCLE_CHANGED"
    ACCESS_CHANGED = "ACCESS_CHANGED"
    CONFIGURATION_CHANGED = "CONFIGURATION_CHANGED"


async def record_change(machine_id: uuid.UUID, kind: ChangeKind) -> None:
    """Log a change within the current transaction, as its last write but one."""
    sequence = await bump(Topic.MACHINE_CHANGES)
    await MachineChange.create(sequence=sequence, machine_id=machine_id, kind=kind, at=now_ms())


async def current_sequence() -> int:
    """The cursor of now: everything up to it is visible to a query made after this call."""
    version = await Version.get(name=Topic.MACHINE_CHANGES)
    return int(version.value)


async def changes_after(sequence: int) -> list[MachineChange]:
    """Up to BATCH changes after `sequence`, oldest first."""
    return await MachineChange.filter(sequence__gt=sequence).order_by("sequence").limit(BATCH)


async def parse_cursor(cursor: str) -> int:
    """The sequence that a cursor stands for.

    Raises:
        InvalidInput: it is none of ours.
        CursorExpired: changes after it are not kept any more.
    """
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise InvalidInput("after takes a cursor that machineChanged gave.", field="after")
    sequence = int(cursor)
    newest = await current_sequence()
    if sequence > newest:
        raise InvalidInput("after is a cursor of another system.", field="after")
    oldest = await MachineChange.all().order_by("sequence").first()
    first_kept = oldest.sequence if oldest is not None else newest + 1
    if sequence + 1 < first_kept:
        raise CursorExpired(
            "Changes since this cursor are not kept any more: query the machines again and "
            "subscribe without after.",
            field="after",
        )
    return sequence


async def prune() -> None:
    newest = await current_sequence()
    await MachineChange.filter(sequence__lte=newest - KEPT).delete()

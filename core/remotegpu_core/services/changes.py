"""The log of what happened to machines, in commit order, that `machineChanged` reads."""

import uuid
from enum import StrEnum

from remotegpu_core.clock import now_ms
from remotegpu_core.models import MachineChange
from remotegpu_core.services.logs import ChangeLog
from remotegpu_core.versions import Topic, bump


class ChangeKind(StrEnum):
    ENROLLED = "ENROLLED"
    PRESENCE_CHANGED = "PRESENCE_CHANGED"
    HEALTH_CHANGED = "HEALTH_CHANGED"
    INVENTORY_CHANGED = "INVENTORY_CHANGED"
    LIFECYCLE_CHANGED = "LIFECYCLE_CHANGED"
    ACCESS_CHANGED = "ACCESS_CHANGED"
    CONFIGURATION_CHANGED = "CONFIGURATION_CHANGED"
    AVAILABILITY_CHANGED = "AVAILABILITY_CHANGED"


async def record_change(machine_id: uuid.UUID, kind: ChangeKind) -> None:
    """Log a change within the current transaction, as its last write but one."""
    sequence = await bump(Topic.MACHINE_CHANGES)
    await MachineChange.create(sequence=sequence, machine_id=machine_id, kind=kind, at=now_ms())


MACHINE_LOG = ChangeLog(
    MachineChange, Topic.MACHINE_CHANGES, subscription="machineChanged", objects="machines"
)

"""The states of machines, allocations, mounts, operations and commands: one table of what may follow what."""

from enum import StrEnum
from typing import Final


class Presence(StrEnum):
    """Whether the control plane hears the machine's agent."""

    ONLINE = "ONLINE"
    UNREACHABLE = "UNREACHABLE"
    LOST = "LOST"


class Lifecycle(StrEnum):
    """What the operators do with the machine."""

    IN_SERVICE = "IN_SERVICE"
    MAINTENANCE = "MAINTENANCE"
    QUARANTINED = "QUARANTINED"
    RETIRED = "RETIRED"


class Health(StrEnum):
    """What the machine says of itself."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    UNHEALTHY = "UNHEALTHY"


class Availability(StrEnum):
    """Derived from the claims on a machine's GPUs, never stored."""

    AVAILABLE = "AVAILABLE"
    PARTLY_ALLOCATED = "PARTLY_ALLOCATED"
    ALLOCATED = "ALLOCATED"
    RECLAIMING = "RECLAIMING"


class AllocationState(StrEnum):
    """PENDING: reserved or waiting. RECLAIMING: ended, and its GPUs not proven clean yet."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    RECLAIMING = "RECLAIMING"
    RELEASED = "RELEASED"
    FAILED = "FAILED"


class OperationState(StrEnum):
    """INDETERMINATE: a host died between an effect and its record, and nobody can tell."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    INDETERMINATE = "INDETERMINATE"


class StepState(StrEnum):
    """Of one step of an operation."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class CommandState(StrEnum):
    """What the control plane knows of something that a host is to do.

    SENT: given to a link, perhaps more than once. ACCEPTED: in the agent's journal. REFUSED: the
    host's local policy does not allow it. EXPIRED: its deadline passed before it began.
    """

    QUEUED = "QUEUED"
    SENT = "SENT"
    ACCEPTED = "ACCEPTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    INDETERMINATE = "INDETERMINATE"


class MountState(StrEnum):
    """PENDING: its host was told. UNMOUNTING: over, and its host has not said so yet."""

    PENDING = "PENDING"
    MOUNTED = "MOUNTED"
    UNMOUNTING = "UNMOUNTING"
    UNMOUNTED = "UNMOUNTED"
    FAILED = "FAILED"


class DatasetVisibility(StrEnum):
    """Who sees a dataset and may read it, besides its owner and whom it is granted to."""

    PRIVATE = "PRIVATE"
    WORKSPACE = "WORKSPACE"
    PUBLIC = "PUBLIC"


class DatasetAccess(StrEnum):
    """What somebody may do with a dataset. WRITE includes READ."""

    READ = "READ"
    WRITE = "WRITE"


_COMMAND_ENDS: Final = frozenset(
    {
        CommandState.SUCCEEDED,
        CommandState.FAILED,
        CommandState.REFUSED,
        CommandState.EXPIRED,
        CommandState.CANCELLED,
        CommandState.INDETERMINATE,
    }
)

# By type: values of different enums that are spelt alike are one key of a dictionary.
TRANSITIONS: Final[dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]]] = {
    Presence: {
        # An agent that answers is back, from wherever it was; silence takes two steps.
        Presence.ONLINE: frozenset({Presence.UNREACHABLE}),
        Presence.UNREACHABLE: frozenset({Presence.ONLINE, Presence.LOST}),
        Presence.LOST: frozenset({Presence.ONLINE}),
    },
    Lifecycle: {
        # Nothing leaves RETIRED; a quarantine ends in service or in maintenance.
        Lifecycle.IN_SERVICE: frozenset(
            {Lifecycle.MAINTENANCE, Lifecycle.QUARANTINED, Lifecycle.RETIRED}
        ),
        Lifecycle.MAINTENANCE: frozenset(
            {Lifecycle.IN_SERVICE, Lifecycle.QUARANTINED, Lifecycle.RETIRED}
        ),
        Lifecycle.QUARANTINED: frozenset(
            {Lifecycle.IN_SERVICE, Lifecycle.MAINTENANCE, Lifecycle.RETIRED}
        ),
        Lifecycle.RETIRED: frozenset(),
    },
    Health: {
        # Health is a reading: any value may follow any other.
        Health.HEALTHY: frozenset({Health.DEGRADED, Health.UNHEALTHY}),
        Health.DEGRADED: frozenset({Health.HEALTHY, Health.UNHEALTHY}),
        Health.UNHEALTHY: frozenset({Health.HEALTHY, Health.DEGRADED}),
    },
    AllocationState: {
        # What was held comes back clean, or not at all: nothing skips RECLAIMING once the host may
        # have begun. One that failed to start is cleaned too, and FAILED after that.
        AllocationState.PENDING: frozenset(set(AllocationState) - {AllocationState.PENDING}),
        AllocationState.ACTIVE: frozenset({AllocationState.RECLAIMING}),
        AllocationState.RECLAIMING: frozenset({AllocationState.RELEASED, AllocationState.FAILED}),
        AllocationState.RELEASED: frozenset(),
        AllocationState.FAILED: frozenset(),
    },
    OperationState: {
        OperationState.PENDING: frozenset(set(OperationState) - {OperationState.PENDING}),
        OperationState.RUNNING: frozenset(
            set(OperationState) - {OperationState.PENDING, OperationState.RUNNING}
        ),
        OperationState.SUCCEEDED: frozenset(),
        OperationState.FAILED: frozenset(),
        OperationState.CANCELLED: frozenset(),
        # A host that comes back may know what nobody could tell.
        OperationState.INDETERMINATE: frozenset({OperationState.SUCCEEDED, OperationState.FAILED}),
    },
    StepState: {
        StepState.PENDING: frozenset(set(StepState) - {StepState.PENDING}),
        StepState.RUNNING: frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED}),
        StepState.SUCCEEDED: frozenset(),
        StepState.FAILED: frozenset({StepState.SUCCEEDED}),
        StepState.SKIPPED: frozenset(),
    },
    MountState: {
        # Whatever comes first ends it; what its host could not unmount is still there.
        MountState.PENDING: frozenset(set(MountState) - {MountState.PENDING}),
        MountState.MOUNTED: frozenset({MountState.UNMOUNTING, MountState.UNMOUNTED}),
        MountState.UNMOUNTING: frozenset({MountState.MOUNTED, MountState.UNMOUNTED}),
        MountState.UNMOUNTED: frozenset(),
        MountState.FAILED: frozenset(),
    },
    CommandState: {
        # One that was never sent can be taken back here; of one that was, only the host knows the end.
        CommandState.QUEUED: frozenset(
            {
                CommandState.SENT,
                CommandState.CANCELLED,
                CommandState.EXPIRED,
                CommandState.INDETERMINATE,
            }
        ),
        CommandState.SENT: _COMMAND_ENDS | {CommandState.ACCEPTED, CommandState.RUNNING},
        CommandState.ACCEPTED: _COMMAND_ENDS | {CommandState.RUNNING},
        CommandState.RUNNING: _COMMAND_ENDS,
        CommandState.SUCCEEDED: frozenset(),
        CommandState.FAILED: frozenset(),
        CommandState.REFUSED: frozenset(),
        CommandState.EXPIRED: frozenset(),
        CommandState.CANCELLED: frozenset(),
        CommandState.INDETERMINATE: _COMMAND_ENDS - {CommandState.INDETERMINATE},
    },
}

#: What is over: nothing more is expected of it.
FINAL: Final[frozenset[StrEnum]] = frozenset(
    {
        AllocationState.RELEASED,
        AllocationState.FAILED,
        OperationState.SUCCEEDED,
        OperationState.FAILED,
        OperationState.CANCELLED,
        OperationState.INDETERMINATE,
        StepState.SUCCEEDED,
        StepState.FAILED,
        StepState.SKIPPED,
        MountState.UNMOUNTED,
        MountState.FAILED,
    }
    | _COMMAND_ENDS
)


def sources_of(target: StrEnum) -> frozenset[StrEnum]:
    """The states from which `target` may be reached; for conditional updates."""
    table = TRANSITIONS[type(target)]
    return frozenset(source for source, targets in table.items() if target in targets)

"""The three stored axes of a machine, and the one table of what may follow what."""

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


TRANSITIONS: Final[dict[StrEnum, frozenset[StrEnum]]] = {
    # An agent that answers is back, from wherever it was; silence takes two steps.
    Presence.ONLINE: frozenset({Presence.UNREACHABLE}),
    Presence.UNREACHABLE: frozenset({Presence.ONLINE, Presence.LOST}),
    Presence.LOST: frozenset({Presence.ONLINE}),
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
    # Health is a reading: any value may follow any other.
    Health.HEALTHY: frozenset({Health.DEGRADED, Health.UNHEALTHY}),
    Health.DEGRADED: frozenset({Health.HEALTHY, Health.UNHEALTHY}),
    Health.UNHEALTHY: frozenset({Health.HEALTHY, Health.DEGRADED}),
}


def sources_of(target: StrEnum) -> frozenset[StrEnum]:
    """The states from which `target` may be reached; for conditional updates."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)

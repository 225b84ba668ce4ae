"""Why an allocation cannot start, or has not started yet."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class ReasonCode(StrEnum):
    """NOT_ENABLED: the host's own policy does not let the control plane allocate it. NOT_SHARED: its
    owner wants GPUs kept apart, and it cannot do that. NOT_PROVABLE: the host could not prove that it
    was cleaned afterwards."""

    NO_CAPACITY = "NO_CAPACITY"
    QUOTA = "QUOTA"
    STARTS_LATER = "STARTS_LATER"
    STARTING = "STARTING"
    OCCUPIED = "OCCUPIED"
    MACHINE_OFFLINE = "MACHINE_OFFLINE"
    MACHINE_DRAINING = "MACHINE_DRAINING"
    MACHINE_OUT_OF_SERVICE = "MACHINE_OUT_OF_SERVICE"
    HOST_NOT_ACCEPTED = "HOST_NOT_ACCEPTED"
    NOT_ENABLED = "NOT_ENABLED"
    NOT_SHARED = "NOT_SHARED"
    NOT_PROVABLE = "NOT_PROVABLE"


@dataclass(frozen=True, slots=True)
class Reason:
    """`message` is for people."""

    code: ReasonCode
    message: str


def moment(at: int) -> str:
    """A time (milliseconds since the Unix epoch) as messages say it."""
    return f"{datetime.fromtimestamp(at // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"

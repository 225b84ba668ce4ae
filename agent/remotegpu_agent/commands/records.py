"""What the journal holds, as the rest of the agent sees it."""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from remotegpu_protocol.commands import Command, EventState


class RecordState(StrEnum):
    """Of a command in the journal."""

    WAITING = "WAITING"
    #: Written right before the effect: from here on nobody knows without looking.
    BEGUN = "BEGUN"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Record:
    """A command that is not over. `cancelled`: it was taken back after it had begun."""

    command: Command
    state: RecordState
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ends: one of the states that are an end, and why."""

    state: EventState
    result: bytes | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """`part` is 0 to 1; the rest is for people."""

    step: str | None = None
    part: float | None = None
    detail: str | None = None


class Receipt(Enum):
    """What became of a command that came."""

    TAKEN = auto()
    #: Its first event is its end.
    ENDED = auto()
    DUPLICATE = auto()


class CancelReceipt(Enum):
    """What became of a cancel that came."""

    #: It had not begun, or had never come; it never will.
    ENDED = auto()
    #: It is under way: stop it, if that can be done.
    BEGUN = auto()
    #: Nothing changes.
    OVER = auto()


@dataclass(frozen=True, slots=True)
class Counts:
    waiting: int = 0
    begun: int = 0
    unacknowledged: int = 0

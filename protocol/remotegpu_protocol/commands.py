"""Commands down and events up: at-least-once delivery, at-most-once effect.

The agent writes a command to its journal before it answers or acts, and every event before it
sends it. Duplicates are answered from the journal. Events carry a sequence that outlives
connections; the control plane acknowledges the last one it has applied, and the agent sends what
is beyond that again. One is applied only when it is the next, or the first of a connection: messages
beyond the rate are dropped, so what follows a gap has to wait.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from remotegpu_protocol.limits import MAX_ARGUMENT_BYTES, MAX_RESULT_BYTES
from remotegpu_protocol.values import PRINTABLE, Count, Identifier, LongText, Text, Timestamp

#: A dotted name in lower case, such as `allocation.start`.
Kind = Annotated[str, Meta(min_length=1, max_length=64, pattern=PRINTABLE)]
#: One msgpack map, of the shape that the kind declares (see `kinds`).
Arguments = Annotated[bytes, Meta(min_length=1, max_length=MAX_ARGUMENT_BYTES)]
Result = Annotated[bytes, Meta(min_length=1, max_length=MAX_RESULT_BYTES)]
Fraction = Annotated[float, Meta(ge=0, le=1)]


class EventState(StrEnum):
    """Where a command stands. All but the first two are its end."""

    ACCEPTED = "ACCEPTED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    #: The host's local policy does not allow it, or its generation is an older one.
    REFUSED = "REFUSED"
    #: The deadline passed before it began.
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    #: The agent died between the effect and its record, and the effect cannot be looked up.
    INDETERMINATE = "INDETERMINATE"

    @property
    def is_end(self) -> bool:
        return self not in {EventState.ACCEPTED, EventState.RUNNING}


class Command(Struct, frozen=True, tag_field="type", tag="command"):
    """Something to do, once. `deadline` is on the control plane's clock: not begun after it.

    `sequence` orders the commands of a machine; those of one allocation are done in that order.
    An agent remembers the highest `generation` of each allocation and refuses lower ones.
    """

    id: Identifier
    sequence: Count
    kind: Kind
    arguments: Arguments
    deadline: Timestamp
    allocation_id: Identifier | None = None
    generation: Count = 0


class Cancel(Struct, frozen=True, tag_field="type", tag="cancel"):
    """Do not begin the command; if it runs, stop it where it can be stopped."""

    id: Identifier


class EventAck(Struct, frozen=True, tag_field="type", tag="event_ack"):
    """Every event up to this sequence is applied; the agent may forget them."""

    sequence: Count


class Event(Struct, frozen=True, omit_defaults=True, tag_field="type", tag="event"):
    """Something about a command. `at` is on the host's clock; `step` and `detail` are for people."""

    sequence: Count
    command_id: Identifier
    state: EventState
    at: Timestamp
    progress: Fraction | None = None
    step: Text | None = None
    detail: LongText | None = None
    result: Result | None = None
    error_code: Text | None = None
    error_message: LongText | None = None

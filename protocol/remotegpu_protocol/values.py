"""Ranges of the values that messages hold.

A value outside its range makes a message invalid, so an agent reports what it cannot vouch for
as null: `plausible` does that. NaN and the infinities are outside of every range.

The `unit` of a type goes into the tables of `docs/protocol.md`.
"""

from typing import Annotated, Final

from msgspec import Meta

#: 2^53 - 1, the largest integer that every JSON reader keeps exact.
MAX_SAFE_INTEGER: Final = 2**53 - 1

#: The last millisecond of the year 9999, where the date types of most languages end.
MAX_TIMESTAMP: Final = 253_402_300_799_999

# No C0 or C1 control character: PostgreSQL cannot store U+0000, and an escape sequence that
# reaches somebody's terminal is an attack. None that turns the direction of what is shown, or that
# is not shown at all: with those, two names look alike that are not.
PRINTABLE: Final = (
    r"^[^\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]*\Z"
)

Percent = Annotated[float, Meta(ge=0, le=100, extra={"unit": "percent"})]
ByteCount = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER, extra={"unit": "bytes"})]
Celsius = Annotated[float, Meta(ge=-100, le=300, extra={"unit": "°C"})]
Watts = Annotated[float, Meta(ge=0, le=100_000, extra={"unit": "W"})]
Megahertz = Annotated[int, Meta(ge=0, le=100_000, extra={"unit": "MHz"})]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
#: Sequence of an event in a journal: none will have had more, and what comes after fits a `Count`.
EventCount = Annotated[int, Meta(ge=0, le=2**40)]
#: Bytes per second.
Rate = Annotated[float, Meta(ge=0, le=1e15, extra={"unit": "bytes/s"})]
Seconds = Annotated[float, Meta(ge=0, le=1e15, extra={"unit": "s"})]
Load = Annotated[float, Meta(ge=0, le=1_000_000)]
Index = Annotated[int, Meta(ge=0, le=65_535)]
Port = Annotated[int, Meta(ge=1, le=65_535)]
ProcessId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
#: Milliseconds since the Unix epoch, up to the year 9999.
Timestamp = Annotated[int, Meta(ge=0, le=MAX_TIMESTAMP, extra={"unit": "ms, Unix epoch"})]
ProtocolVersion = Annotated[int, Meta(ge=1, le=65_535)]

#: Lengths are in Unicode code points.
Text = Annotated[str, Meta(max_length=255, pattern=PRINTABLE)]
LongText = Annotated[str, Meta(max_length=2000, pattern=PRINTABLE)]
Identifier = Annotated[str, Meta(min_length=1, max_length=128, pattern=PRINTABLE)]

# For samples, which come so often that a pattern a string would be felt. Whoever stores or shows
# one cleans it first (`grammar.clean_text`).
RawText = Annotated[str, Meta(max_length=255)]
RawIdentifier = Annotated[str, Meta(min_length=1, max_length=128)]


def plausible(value: float | None, low: float, high: float) -> float | None:
    """`value` when it lies within [low, high], else None; NaN lies nowhere."""
    return value if value is not None and low <= value <= high else None


def plausible_int(value: int | None, low: int = 0, high: int = MAX_SAFE_INTEGER) -> int | None:
    """`value` when it lies within [low, high], else None."""
    return value if value is not None and low <= value <= high else None

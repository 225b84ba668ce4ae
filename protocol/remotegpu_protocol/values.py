"""Ranges of the values that messages hold.

A value outside its range makes a message invalid, so an agent reports what it cannot vouch for
as null: `plausible` does that.
"""

import math
from typing import Annotated, Final

from msgspec import Meta

#: 2^53 - 1, the largest integer that every JSON reader keeps exact.
MAX_SAFE_INTEGER: Final = 2**53 - 1

Percent = Annotated[float, Meta(ge=0, le=100)]
ByteCount = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Celsius = Annotated[float, Meta(ge=-100, le=300)]
Watts = Annotated[float, Meta(ge=0, le=100_000)]
Megahertz = Annotated[int, Meta(ge=0, le=100_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
Rate = Annotated[float, Meta(ge=0, le=1e15)]
Load = Annotated[float, Meta(ge=0, le=1_000_000)]
Index = Annotated[int, Meta(ge=0, le=65_535)]
ProcessId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
#: Milliseconds since the Unix epoch, up to the year 9999.
Timestamp = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
Text = Annotated[str, Meta(max_length=255)]
LongText = Annotated[str, Meta(max_length=2000)]
Identifier = Annotated[str, Meta(min_length=1, max_length=128)]


def plausible(value: float | None, low: float, high: float) -> float | None:
    """`value` when it is a finite number within [low, high], else None."""
    if value is None or not math.isfinite(value) or not low <= value <= high:
        return None
    return value


def plausible_int(value: int | None, low: int = 0, high: int = MAX_SAFE_INTEGER) -> int | None:
    """`value` when it lies within [low, high], else None."""
    if value is None or not low <= value <= high:
        return None
    return value

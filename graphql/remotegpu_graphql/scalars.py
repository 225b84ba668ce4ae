"""Scalars of the graph."""

from datetime import UTC, datetime, timedelta
from typing import NewType

import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from remotegpu_protocol.values import MAX_SAFE_INTEGER, MAX_TIMESTAMP

#: Milliseconds since the Unix epoch, as every stored time.
DateTime = NewType("DateTime", int)
#: Bytes.
ByteCount = NewType("ByteCount", int)
#: Of things, beyond what an Int holds.
Count = NewType("Count", int)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(value: int) -> str:
    """2026-01-31T12:34:56.789Z"""
    seconds, milliseconds = divmod(value, 1000)
    stamp = datetime.fromtimestamp(seconds, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def parse_time(value: object) -> DateTime:
    if isinstance(value, str) and len(value) <= 40:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if moment.tzinfo is not None:
                # Whole numbers all the way: a float is a millisecond off for some moments.
                return DateTime(_clamp((moment - _EPOCH) // timedelta(milliseconds=1)))
    raise GraphQLError("A DateTime is ISO 8601 with a time zone, such as 2026-01-31T12:34:56.789Z.")


def _clamp(value: int) -> int:
    """Moments before 1970 are as good as its beginning to us, and those after 9999 as its end."""
    return min(max(0, value), MAX_TIMESTAMP)


def _serialise_integer(value: int) -> int:
    return min(value, MAX_SAFE_INTEGER)


def _parse_integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SAFE_INTEGER:
        return value
    raise GraphQLError(f"Expected an integer from 0 to {MAX_SAFE_INTEGER}.")


SCALARS: dict[object, ScalarDefinition] = {
    DateTime: strawberry.scalar(
        name="DateTime",
        description="A moment: ISO 8601 in UTC with milliseconds, `2026-01-31T12:34:56.789Z`.",
        specified_by_url="https://scalars.graphql.org/andimarek/date-time.html",
        serialize=format_time,
        parse_value=parse_time,
    ),
    ByteCount: strawberry.scalar(
        name="ByteCount",
        description=(
            "A size in bytes: a JSON integer from 0 to 2^53-1 (9007199254740991). Sums beyond "
            "that are cut to it. Map it to a 64-bit integer or, in JavaScript, to `number`."
        ),
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259#section-6",
        serialize=_serialise_integer,
        parse_value=_parse_integer,
    ),
    Count: strawberry.scalar(
        name="Count",
        description="A number of things: a JSON integer from 0 to 2^53-1 (9007199254740991).",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259#section-6",
        serialize=_serialise_integer,
        parse_value=_parse_integer,
    ),
}

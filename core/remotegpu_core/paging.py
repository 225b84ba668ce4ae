"""Pages of rows by key, never by offset: a page stays right while rows come and go."""

import base64
import binascii
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec
from tortoise.expressions import Q, RawSQL
from tortoise.fields import CharField
from tortoise.models import Model
from tortoise.queryset import QuerySet

from remotegpu_core.errors import InvalidInput
from remotegpu_core.texts import storable
from remotegpu_protocol.grammar import shorten

DEFAULT_PAGE = 20
MAX_PAGE = 100

Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Relay's four arguments: the first after, or the last before a cursor."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Rows by `field`, and by id where the field is the same.

    `computed` is the SQL of a field that is no column but an integer computed from others.
    """

    field: str
    descending: bool = False
    computed: RawSQL | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: list[Row]
    cursors: list[str]
    has_next: bool
    has_previous: bool
    #: Counts every row of the list, this page or not, when somebody asks.
    count: Callable[[], Awaitable[int]]


async def fetch_page(query: QuerySet[Row], order: Order, request: PageRequest) -> Page[Row]:
    """One page of `query`.

    Raises:
        InvalidInput: a size out of range, both directions at once, or a cursor of another list.
    """
    size, backwards = _size(request)
    counted = query
    if order.computed is not None:
        query = query.annotate(**{order.field: order.computed})
    after, before = request.after, request.before
    narrowed = query
    if after is not None:
        narrowed = narrowed.filter(_beyond(query, order, after, "after", forwards=True))
    if before is not None:
        narrowed = narrowed.filter(_beyond(query, order, before, "before", forwards=False))
    signs = ("-", "") if order.descending != backwards else ("", "-")
    sign = signs[0]
    by = [f"{sign}{order.field}"] + ([f"{sign}id"] if order.field != "id" else [])
    rows = await narrowed.order_by(*by).limit(size + 1)
    more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()

    async def count() -> int:
        return await counted.count()

    return Page(
        rows=rows,
        cursors=[cursor_of(order, row) for row in rows],
        has_next=more if not backwards else before is not None,
        has_previous=more if backwards else after is not None,
        count=count,
    )


def _size(request: PageRequest) -> tuple[int, bool]:
    if request.first is not None and request.last is not None:
        raise InvalidInput("Give first or last, not both.", field="first")
    for name, value in (("first", request.first), ("last", request.last)):
        if value is not None and not 0 <= value <= MAX_PAGE:
            raise InvalidInput(f"{name} is 0 to {MAX_PAGE}, got {value}.", field=name)
    if request.last is not None:
        return request.last, True
    return DEFAULT_PAGE if request.first is None else request.first, False


def _beyond(query: QuerySet[Row], order: Order, cursor: str, argument: str, *, forwards: bool) -> Q:
    value, row_id = _read(query, order, cursor, argument)
    way = "gt" if forwards != order.descending else "lt"
    if order.field == "id":
        return Q(**cast("Any", {f"id__{way}": row_id}))
    # An index is entered by one bound, and not by the two sides of an OR.
    return Q(**{f"{order.field}__{way}e": value}) & (
        Q(**{f"{order.field}__{way}": value}) | Q(**cast("Any", {f"id__{way}": row_id}))
    )


def cursor_of(order: Order, row: Model) -> str:
    """Where the row stands in a list of this order."""
    value = None if order.field == "id" else getattr(row, order.field)
    row_id: uuid.UUID = row.pk
    packed = msgspec.msgpack.encode([order.field, value, row_id.bytes])
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _read(query: QuerySet[Row], order: Order, cursor: str, argument: str) -> tuple[Any, uuid.UUID]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        packed = base64.b64decode(padded, altchars=b"-_", validate=True)
        field, value, row_id = msgspec.msgpack.decode(
            packed, type=tuple[str, str | int | None, bytes]
        )
        if field != order.field or not _fits(query, order, value):
            raise ValueError(field)
        return value, uuid.UUID(bytes=row_id)
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raise InvalidInput(
            f"{argument} takes a cursor that this list gave, got {shorten(cursor)!r}.",
            field=argument,
        ) from None


def _fits(query: QuerySet[Row], order: Order, value: str | int | None) -> bool:
    """Whether a row's field could have this value: databases refuse others in ways of their own."""
    if order.field == "id":
        return value is None
    if order.computed is not None:
        return isinstance(value, int) and abs(value) < 2**31
    column = query.model._meta.fields_map[order.field]  # noqa: SLF001 - Tortoise's one way to ask
    if isinstance(value, str):
        return isinstance(column, CharField) and storable(value, column.max_length)
    return column.field_type is int and value is not None and -(2**63) <= value < 2**63

"""Statements that an ORM would make slow: written as SQL that both databases take."""

import itertools
import re
import uuid
from collections.abc import Sequence
from typing import Any

from pypika_tortoise.context import SqlContext
from pypika_tortoise.terms import Term, ValueWrapper
from tortoise.connection import get_connection
from tortoise.expressions import Subquery

#: A row: its columns by position and by name.
Row = Any


async def select(sql: str, *values: object) -> Sequence[Row]:
    """Rows of a statement that begins with SELECT, on the current transaction if there is one.

    Each `?` in `sql` stands for the next of `values`. UUIDs come back as text on SQLite, where
    they are stored as text; `as_uuid` reads both.
    """
    client = get_connection("default")
    if client.capabilities.dialect == "sqlite":
        given = [str(value) if isinstance(value, uuid.UUID) else value for value in values]
    else:
        given = list(values)
        numbers = itertools.count(1)
        sql = re.sub(r"\?", lambda _: f"${next(numbers)}", sql)
    _, rows = await client.execute_query(sql, given)
    return rows


def as_uuid(value: uuid.UUID | str) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def contains(text: str) -> str:
    """The value for `LOWER(column) LIKE ? ESCAPE '\\'` that finds `text` anywhere, in any case."""
    escaped = re.sub(r"([\\%_])", r"\\\1", text.lower())
    return f"%{escaped}%"


class SubSelect(Subquery):
    """A SELECT as a set that a filter of the ORM compares with. Each `?` in it stands for the next of
    `values`, which are texts and numbers; UUIDs are given as texts."""

    def __init__(self, sql: str, *values: str | int) -> None:
        Term.__init__(self)
        self._sql = sql
        self._values = values

    def get_sql(self, ctx: SqlContext) -> str:
        values = iter(self._values)
        sql = re.sub(r"\?", lambda _: ValueWrapper(next(values)).get_sql(ctx), self._sql)
        return f"({sql})"

"""Rows as expressions of their numbers, in the SQL of both databases."""
# ruff: noqa: S608 - all that goes into the SQL is of these files

import contextlib
import json
import uuid
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.models import Model

from remotegpu_core.clock import now_ms

HOUR: Final = 3_600_000
GPUS: Final = 8


@dataclass(frozen=True)
class Size:
    """How many rows; everything else follows from these."""

    machines: int
    allocations: int
    events: int
    users: int = 1000


#: What the performance targets speak of.
FULL: Final = Size(machines=10_000, allocations=100_000, events=1_000_000)
#: Enough for a planner to choose an index, and made in a second.
SMALL: Final = Size(machines=300, allocations=3_000, events=6_000, users=100)


class Rows:
    """Writes rows of a `Size`. Of the machines, in their order, 30 % are allocated, as a whole or two
    GPUs of them, 3 % are being cleaned, and 3 % are booked for tomorrow; 1 % is quarantined."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.now = now_ms()
        self.active = size.machines * 30 // 100
        self.reclaiming = size.machines * 3 // 100
        self.reserved = size.machines * 3 // 100
        self.queued = 20
        #: Allocations that are not over come first.
        self.live = self.active + self.reclaiming + self.reserved + self.queued
        self.client: BaseDBAsyncClient = get_connection("default")
        self.sqlite = self.client.capabilities.dialect == "sqlite"

    @property
    def workspace(self) -> str:
        return f"n % {self.size.users // 10}"

    @contextlib.asynccontextmanager
    async def without_indexes(self, model: type[Model]) -> AsyncIterator[None]:
        """Indexes of a table are made after the block: of a million rows that takes a quarter of
        the time that it takes to keep them row by row."""
        table = model._meta.db_table
        indexes = await self.client.execute_query_dict(
            f"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = '{table}' "
            "AND sql IS NOT NULL"
            if self.sqlite
            else "SELECT indexname AS name, indexdef AS sql FROM pg_indexes "
            f"WHERE schemaname = current_schema() AND tablename = '{table}' "
            "AND indexname NOT IN (SELECT conname FROM pg_constraint)"
        )
        for index in indexes:
            await self.client.execute_script(f'DROP INDEX "{index["name"]}"')
        yield
        for index in indexes:
            await self.client.execute_script(index["sql"])

    async def insert(self, model: type[Model], rows: int | str, /, **values: str) -> None:
        """`rows`: how many, or a table of a query's; columns by name, as expressions of `n`."""
        columns = dict(values)
        for name, field in model._meta.fields_map.items():
            if name in columns or name not in model._meta.fields_db_projection:
                continue
            if field.default is not None:
                value = field.default() if callable(field.default) else field.default
                columns[name] = self._literal(value)
            elif not field.null:
                assert name == "created_at", (model.__name__, name)
                columns[name] = str(self.now)
        names = ", ".join(f'"{name}"' for name in columns)
        source = f"({self.series(rows)}) AS s" if isinstance(rows, int) else f"{rows} AS s"
        await self.client.execute_script(
            f'INSERT INTO "{model._meta.db_table}" ({names}) '
            f"SELECT {', '.join(columns.values())} FROM {source}"
        )

    def series(self, count: int, name: str = "n") -> str:
        if not self.sqlite:
            return f"SELECT {name} FROM generate_series(0::bigint, {count - 1}) AS {name}"
        return (
            f"WITH RECURSIVE c({name}) AS (SELECT 0 UNION ALL SELECT {name} + 1 FROM c "
            f"LIMIT {count}) SELECT {name} FROM c"
        )

    def id(self, model: str, number: str = "n") -> str:
        return _uuid(self.sqlite, model, number)

    def name(self, prefix: str) -> str:
        padded = "printf('%07d', n)" if self.sqlite else "lpad(n::text, 7, '0')"
        return f"'{prefix}' || {padded}"

    def json(self, value: object) -> str:
        text = f"'{json.dumps(value)}'"
        return text if self.sqlite else f"{text}::jsonb"

    def _literal(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value).upper()
        if isinstance(value, int | float):
            return str(value)
        if isinstance(value, Enum):
            return f"'{value.value}'"
        if isinstance(value, str):
            return f"'{value}'"
        assert isinstance(value, list | dict), value
        return self.json(value)


def row_id(model: type[Model], number: int) -> uuid.UUID:
    """Of the row `number` of a fleet."""
    return uuid.UUID(f"0198c1f0-0000-7{_kind(model.__name__):03x}-8000-{number:012x}")


def _kind(model: str) -> int:
    return zlib.crc32(model.encode()) % 4096


def _uuid(sqlite: bool, model: str, number: str) -> str:
    if sqlite:
        return f"printf('0198c1f0-0000-7{_kind(model):03x}-8000-%012x', {number})"
    return f"('0198c1f0-0000-7{_kind(model):03x}-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"

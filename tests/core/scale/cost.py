"""Processor time of questions about a large fleet: of this process, and of its PostgreSQL."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tortoise.connection import get_connection

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time: all of it, that of the database's server, and the longest
    turn of the event loop. The threads of SQLite are part of this process."""

    total: float
    server: float
    longest_turn: float


async def cost_of(ask: Callable[[], Awaitable[object]]) -> Cost:
    """The least of three attempts: what comes on top of it is not the question's."""
    return min([await _cost(ask) for _ in range(3)], key=lambda cost: cost.total)


async def _cost(ask: Callable[[], Awaitable[object]]) -> Cost:
    turns = [0.0]

    async def watch() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.002)
            turns.append(time.thread_time() - began)

    server = await _server_processes()
    before, began = _used(server), time.process_time()
    watching = asyncio.create_task(watch())
    await ask()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    own, there = time.process_time() - began, _used(server) - before
    return Cost((own + there) * 1000, there * 1000, max(turns) * 1000)


async def _server_processes() -> list[int]:
    """Of a PostgreSQL on this machine; of SQLite there are none."""
    client = get_connection("default")
    if client.capabilities.dialect == "sqlite":
        return []
    _, rows = await client.execute_query("SELECT pid FROM pg_stat_activity")
    return [row["pid"] for row in rows]


def _used(processes: list[int]) -> float:
    """Seconds that they have run."""
    used = 0.0
    for pid in processes:
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += (int(fields[11]) + int(fields[12])) / _TICK
    return used

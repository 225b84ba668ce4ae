"""Counters in the database that say what changed, so that every process notices within a second.

`access` grows with users, sessions, tokens, memberships and grants; `machine_changes` numbers the
machines' change log; `commands`, `operations` and `allocations` number theirs. The bus only makes it faster: revocation works while Redis is away.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog
from tortoise.connection import get_connection

from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.keys import NUDGE
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.models import Version
from remotegpu_core.tasks import end, keep_running

log = structlog.get_logger()

#: Seconds between polls.
POLL_INTERVAL = 1.0


class Topic(StrEnum):
    ACCESS = "access"
    MACHINE_CHANGES = "machine_changes"
    COMMANDS = "commands"
    OPERATIONS = "operations"
    ALLOCATIONS = "allocations"


async def bump(topic: Topic) -> int:
    """Count a change within the current transaction and return the new value.

    The row stays locked until the commit, so values become visible in their order. Do it last.
    """
    rows = await get_connection("default").execute_query_dict(
        f"UPDATE version SET value = value + 1 WHERE name = '{topic}' RETURNING value"  # noqa: S608 - an enum's value
    )
    return int(rows[0]["value"])


async def lock(topic: Topic) -> None:
    """Let nobody else count a change until the current transaction ends."""
    # On SQLite everything is locked by now.
    await Version.filter(name=topic).select_for_update()


async def read_versions() -> dict[Topic, int]:
    known = {str(topic) for topic in Topic}
    return {
        Topic(name): value
        for name, value in await Version.all().values_list("name", "value")
        if name in known
    }


class VersionWatch:
    """Polls the versions of one process and tells its listeners what moved."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[Topic, int] = {}
        self._listeners: list[tuple[Topic, Callable[[], Awaitable[None]]]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def on_change(self, topic: Topic, listener: Callable[[], Awaitable[None]]) -> None:
        self._listeners.append((topic, listener))

    async def start(self) -> None:
        self._known = await read_versions()
        await self._bus.listener.subscribe(NUDGE, self._nudged)
        self._bus.listener.on_gap(self._wake.set)
        self._task = asyncio.create_task(
            keep_running("version-watch", self._poll), name="version-watch"
        )

    async def stop(self) -> None:
        await end(self._task)
        self._task = None

    def _nudged(self, _topic: bytes) -> None:
        self._wake.set()

    async def _poll(self) -> None:
        # Not `wait_for`, which on Python 3.11 may swallow the cancellation that ends this duty.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL):
                await self._wake.wait()
        self._wake.clear()
        try:
            versions = await read_versions()
            moved = {topic for topic, value in versions.items() if self._known.get(topic) != value}
            for topic, listener in self._listeners:
                if topic in moved:
                    await listener()
        except DATABASE_ERRORS as error:
            if not self._away:
                log.warning("database.away", error=str(error))
            self._away = True
            return
        # Only now: a listener that failed is called again at the next poll.
        self._known = versions
        if self._away:
            log.info("database.back")
        self._away = False

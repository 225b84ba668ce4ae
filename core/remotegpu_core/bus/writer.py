"""Batched writes: everything that gathers while one round trip runs goes out in the next."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from remotegpu_core.bus.connection import in_time
from remotegpu_core.tasks import end

log = structlog.get_logger()

#: Adds one command to a pipeline.
Write = Callable[[Pipeline], object]

#: Writes that may wait before `put` makes its caller wait, and how many one round trip takes.
MAX_PENDING = 4096
MAX_BATCH = 512
#: Seconds between two attempts while Redis is away, and for what is pending at the end.
RETRY_AFTER = 0.2
LAST_CHANCE = 1.0


class Writer:
    """Sends writes that may be lost; while Redis is away they are dropped and counted."""

    def __init__(self, redis: Redis) -> None:
        self.dropped = 0
        self._redis = redis
        self._pending: list[Write] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="bus-writer")

    async def stop(self) -> None:
        """End, after what is pending was sent if that does not take long."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_CHANCE):
                await self._idle.wait()
        await end(self._task)
        self._task = None

    async def put(self, write: Write) -> None:
        """Queue a write; waits while the queue is full, which is the back-pressure on ingest.

        While Redis is away nobody waits for it: heartbeats come the same way as samples.
        """
        while len(self._pending) >= MAX_PENDING:
            if self._away:
                self.dropped += 1
                return
            self._room.clear()
            await self._room.wait()
        self._pending.append(write)
        self._idle.clear()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            if not self._pending:
                self._wake.clear()
            self._room.set()
            await self._send(batch)
            if not self._pending:
                self._idle.set()

    async def _send(self, batch: list[Write]) -> None:
        try:
            answers = await self._execute(batch)
        except (RedisError, OSError) as error:
            # What waits behind is as old as what was lost, and its writers wait for room.
            self._lost(len(batch) + len(self._pending), error)
            self._pending.clear()
            self._wake.clear()
            self._room.set()
            await asyncio.sleep(RETRY_AFTER)
            return
        refusals = [answer for answer in answers if isinstance(answer, Exception)]
        if refusals:
            # Out of memory, read-only, ...: it answers, and keeps nothing.
            self._lost(len(refusals), refusals[0])
        elif self._away:
            self._away = False
            log.info("bus.back", dropped=self.dropped)

    async def _execute(self, batch: list[Write]) -> list[object]:
        try:
            return await self._try(batch)
        except (RedisConnectionError, ConnectionError):
            if self._away:
                raise
            # Perhaps only the connection is gone, and the server was back before anybody looked.
            # Nothing here minds being written twice.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            return await self._try(batch)

    async def _try(self, batch: list[Write]) -> list[object]:
        async with in_time(), self._redis.pipeline(transaction=False) as pipeline:
            for write in batch:
                write(pipeline)
            return await pipeline.execute(raise_on_error=False)

    def _lost(self, count: int, error: Exception) -> None:
        self.dropped += count
        if not self._away:
            self._away = True
            log.warning("bus.away", error=str(error), effect="live samples are dropped")

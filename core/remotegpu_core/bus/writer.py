"""Batched writes: everything that gathers while one round trip runs goes out in the next."""

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

log = structlog.get_logger()

#: Adds one command to a pipeline.
Write = Callable[[Pipeline], object]

#: Writes that may wait before `put` makes its caller wait, and how many one round trip takes.
MAX_PENDING = 4096
MAX_BATCH = 512


class Writer:
    """Sends writes that may be lost; while Redis is away they are dropped and counted."""

    def __init__(self, redis: Redis) -> None:
        self.dropped = 0
        self._redis = redis
        self._pending: list[Write] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None
        self._away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="bus-writer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def put(self, write: Write) -> None:
        """Queue a write; waits while the queue is full, which is the back-pressure on ingest."""
        while len(self._pending) >= MAX_PENDING:
            self._room.clear()
            await self._room.wait()
        self._pending.append(write)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            if not self._pending:
                self._wake.clear()
            self._room.set()
            await self._send(batch)

    async def _send(self, batch: list[Write]) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for write in batch:
                    write(pipeline)
                await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            self.dropped += len(batch)
            if not self._away:
                self._away = True
                log.warning("bus.away", error=str(error), effect="live samples are dropped")
            await asyncio.sleep(0.2)
        else:
            if self._away:
                self._away = False
                log.info("bus.back", dropped=self.dropped)

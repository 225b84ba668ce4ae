"""Batched writes: everything that gathers while one round trip runs goes out in the next."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from remotegpu_core.bus.batch import MAX_BATCH, Batch, Refusal, Waiting
from remotegpu_core.bus.connection import in_time
from remotegpu_core.bus.outlet import Outlet
from remotegpu_core.bus.wire import Wire
from remotegpu_core.tasks import end

log = structlog.get_logger()

#: Adds one command to a pipeline.
Write = Callable[[Pipeline], object]

#: Writes that may wait, and bytes of samples among them, before their writers have to.
MAX_PENDING: Final = 4096
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
#: Seconds from one batch to the next, unless a whole one waits already. The first write after a
#: pause goes at once; of many that trickle in, a few share each round trip's cost.
SPACING: Final = 0.005
#: Seconds for one batch from which on a link's newer samples replace its older ones that wait.
BEHIND: Final = 1.0
#: Seconds between two attempts while Redis is away, and for what is pending at the end.
RETRY_AFTER = 0.2
LAST_CHANCE = 1.0


class Writer:
    """Sends writes that may be lost; while Redis is away they are dropped and counted.

    Links hand over samples and presence notes at once, and read no further while there is no `room`.
    """

    def __init__(self, redis: Redis) -> None:
        self.dropped = 0
        #: Samples that never went because Redis was behind and a newer one of the same link came.
        self.superseded = 0
        self._redis = redis
        self._wire = Wire(redis)
        self._writes: list[Write] = []
        self._waiting = Waiting()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        #: When the last batch went, and how long the one before it took: seconds of the loop's.
        self._sent_at = self._round_trip = 0.0
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
        await self._wire.close()

    @property
    def pending(self) -> int:
        """Writes that wait for a round trip."""
        return len(self._writes) + self._waiting.count

    @property
    def is_full(self) -> bool:
        """Whether writers have to wait for `room`."""
        waiting = self._waiting
        return len(self._writes) + waiting.count >= MAX_PENDING or waiting.size >= MAX_PENDING_BYTES

    async def put(self, write: Write) -> None:
        """Queue a write; waits while the queue is full."""
        await self.room()
        if self.is_full:
            self.dropped += 1
            return
        self._writes.append(write)
        self._begin()

    async def room(self) -> None:
        """Wait while the queue is full, which is the back-pressure on ingest.

        While Redis is away nobody waits for it: heartbeats come the same way as samples.
        """
        while self.is_full and not self._away:
            self._room.clear()
            await self._room.wait()

    def sample(self, outlet: Outlet, sampled_at: int, message: bytes) -> bool:
        """Publish a sample and keep it as its machine's latest; False: await `room`, then go on.

        A full queue takes this one too. While Redis is slow a sample takes the place of the link's
        newest: waiting would only make all that follow late.
        """
        if self.is_full:
            if self._away:
                self.dropped += 1
                return True
            if self._is_behind and self._waiting.supersede(outlet, sampled_at, message):
                self.superseded += 1
                return True
        self.take(outlet, sampled_at, message)
        return not self.is_full

    def take(self, outlet: Outlet, sampled_at: int, message: bytes) -> None:
        """Like `sample`, for one who just saw that the queue is not full."""
        self._waiting.add(outlet, sampled_at, message)
        if not self._wake.is_set():
            self._begin()

    def note(self, outlet: Outlet, seen_at: int) -> bool:
        """Say that the outlet's link was heard at `seen_at` (milliseconds); False like `sample`."""
        if self._away and self.is_full:
            self.dropped += 1
            return True
        self._waiting.note(outlet, seen_at)
        self._begin()
        return not self.is_full

    @property
    def _is_behind(self) -> bool:
        """Whether the batch under way, or the one before, took that long."""
        under_way = asyncio.get_running_loop().time() - self._sent_at
        return max(self._round_trip, under_way) > BEHIND

    def _begin(self) -> None:
        if not self._wake.is_set():
            self._idle.clear()
            self._wake.set()

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await self._wake.wait()
            early = self._sent_at + SPACING - now()
            if early > 0 and self.pending < MAX_BATCH:
                await asyncio.sleep(early)
            self._sent_at = now()
            batch = self._waiting.take()
            writes, self._writes = self._writes[:MAX_BATCH], self._writes[MAX_BATCH:]
            if not self.pending:
                self._wake.clear()
            self._room.set()
            await self._send(batch, writes)
            self._round_trip = now() - self._sent_at
            if not self.pending:
                self._idle.set()

    async def _send(self, batch: Batch, writes: list[Write]) -> None:
        try:
            refusals = await self._execute(batch, writes)
        except (RedisError, OSError) as error:
            # What waits behind is as old as what was lost, and its writers wait for room.
            behind = self._waiting.clear() + len(self._writes)
            self._writes.clear()
            self._lost(sum(batch.counts) + len(writes) + behind, str(error))
            self._wake.clear()
            self._room.set()
            await asyncio.sleep(RETRY_AFTER)
            return
        if refusals:
            # Out of memory, read-only, ...: it answers, and keeps nothing.
            self._lost(sum(count for count, _ in refusals), refusals[0][1])
        elif self._away:
            self._away = False
            log.info("bus.back", dropped=self.dropped)

    async def _execute(self, batch: Batch, writes: list[Write]) -> list[Refusal]:
        try:
            return await self._try(batch, writes)
        except (RedisConnectionError, ConnectionError):
            if self._away:
                raise
            # Perhaps only the connection is gone, and the server was back before anybody looked.
            # Nothing here minds being written twice.
            await self.disconnect()
            return await self._try(batch, writes)

    async def disconnect(self) -> None:
        """Close the connections that nothing uses at this moment, the batches' one included."""
        with contextlib.suppress(RedisError, OSError):
            await self._wire.close()
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _try(self, batch: Batch, writes: list[Write]) -> list[Refusal]:
        refusals: list[Refusal] = []
        async with in_time():
            if batch.counts:
                answers = await self._wire.exchange(batch.commands, len(batch.counts))
                refusals += batch.refusals(answers)
            if writes:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for write in writes:
                        write(pipeline)
                    answers = await pipeline.execute(raise_on_error=False)
                refusals += [
                    (1, str(answer)) for answer in answers if isinstance(answer, Exception)
                ]
        return refusals

    def _lost(self, count: int, reason: str) -> None:
        self.dropped += count
        if not self._away:
            self._away = True
            log.warning("bus.away", error=reason, effect="live samples are dropped")

"""The bus as services and the edge use it."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ReadOnlyError, RedisError

from remotegpu_core.bus import keys
from remotegpu_core.bus.connection import QUESTION_TIMEOUT, Breaker, connect
from remotegpu_core.bus.listener import Listener
from remotegpu_core.bus.outlet import Outlet
from remotegpu_core.bus.samples import Sample, unpack_sample
from remotegpu_core.bus.sums import GpuSums
from remotegpu_core.bus.writer import Writer
from remotegpu_core.clock import credible, now_ms

log = structlog.get_logger()

#: Milliseconds that a probe is kept.
PROBE_LIFETIME = 10_000
#: Milliseconds that a replica's wish for a sampling rate holds.
WATCH_LIFETIME = 30_000


@dataclass(frozen=True, slots=True)
class Live:
    """What the bus knows of a machine right now; both are None when it knows nothing."""

    sample: Sample | None = None
    #: Milliseconds since the Unix epoch.
    last_seen_at: int | None = None


class Bus:
    """Samples, presence and watch rates through one Redis client."""

    def __init__(self, url: str | None, ca_file: Path | None = None) -> None:
        self.redis: Redis = connect(url, ca_file)
        self.writer = Writer(self.redis)
        self.listener = Listener(self.redis)
        self._breaker = Breaker()
        #: Why the last probe was not kept, in Redis's words; None: it was.
        self.trouble: str | None = None

    async def start(self) -> None:
        self.writer.start()
        await self.listener.start()

    async def stop(self) -> None:
        await self.listener.stop()
        await self.writer.stop()
        with contextlib.suppress(RedisError, OSError):
            await self.redis.aclose()

    async def probe(self, replica_id: UUID) -> None:
        """Write a value, and note in `trouble` whether Redis kept it.

        Redis may answer and keep nothing: out of memory, a replica since a failover, a disk that
        its snapshots no longer fit on.
        """
        try:
            async with asyncio.timeout(QUESTION_TIMEOUT):
                await self.redis.set(keys.probe_key(replica_id), 1, px=PROBE_LIFETIME)
        except (RedisError, OSError) as error:
            if self.trouble is None:
                log.warning("bus.refuses_writes", error=str(error))
            self.trouble = str(error) or type(error).__name__
            if isinstance(error, ReadOnlyError):
                # Connections made anew may lead to the new primary.
                await self.writer.disconnect()
        else:
            if self.trouble is not None:
                log.info("bus.takes_writes")
            self.trouble = None

    async def publish_sample(self, machine_id: UUID, sample: Sample) -> None:
        """Keep a sample as the machine's latest and send it to whoever watches."""
        outlet = Outlet(machine_id, sample.epoch)
        if not self.writer.sample(outlet, sample.sampled_at, sample.message):
            await self.writer.room()

    async def note_presence(self, machine_id: UUID, *, epoch: int, seen_at: int) -> None:
        """Say that the machine's connection `epoch` was heard at `seen_at` (milliseconds)."""
        if not self.writer.note(Outlet(machine_id, epoch), seen_at):
            await self.writer.room()

    async def live(self, machine_ids: Iterable[UUID]) -> dict[UUID, Live]:
        """Latest samples and presence of many machines, in one round trip.

        Without Redis nobody is known live; the database's values then stand alone.
        """
        ids = list(machine_ids)
        if not ids:
            return {}
        wanted = [keys.latest_key(i) for i in ids] + [keys.presence_key(i) for i in ids]
        try:
            async with self._breaker.question():
                values = cast("list[bytes | None]", await self.redis.mget(wanted))
        except (RedisError, OSError):
            # The writer and the listener say once that the bus is away.
            return {}
        samples, notes = values[: len(ids)], values[len(ids) :]
        return {
            machine_id: _live(sample, note)
            for machine_id, sample, note in zip(ids, samples, notes, strict=True)
        }

    async def add_latest(self, epochs: Mapping[UUID | str, int], sums: GpuSums) -> None:
        """Add the latest samples of machines, given with the epochs of their newest connections.

        A machine's id may be text, as SQLite has it: UUIDs of a whole fleet take longer to make than
        their samples to read. Without Redis there are none. A tenth of what `live` costs, for sums over a whole fleet.
        """
        try:
            async with self._breaker.question():
                packed = cast(
                    "list[bytes | None]",
                    await self.redis.mget([keys.latest_key(machine_id) for machine_id in epochs]),
                )
        except (RedisError, OSError):
            return
        for sample, epoch in zip(packed, epochs.values(), strict=True):
            sums.add(sample, epoch)

    async def wish_rate(self, replica_id: UUID, wishes: dict[UUID, float | None]) -> None:
        """Say how often (seconds; None: no more) this replica's viewers want samples."""
        until = now_ms() + WATCH_LIFETIME

        for machine_id, interval in wishes.items():
            key = keys.watch_key(machine_id)

            def write(
                pipeline: Pipeline,
                key: str = key,
                machine_id: UUID = machine_id,
                interval: float | None = interval,
            ) -> None:
                if interval is None:
                    pipeline.hdel(key, str(replica_id))
                else:
                    pipeline.hset(key, str(replica_id), f"{interval} {until}")
                    pipeline.pexpire(key, WATCH_LIFETIME)
                pipeline.publish(keys.WATCH, str(machine_id))

            await self.writer.put(write)

    async def wished_rate(self, machine_id: UUID) -> float | None:
        """The shortest interval, in seconds, that any replica wants samples at."""
        try:
            async with self._breaker.question():
                found = await self.redis.hgetall(keys.watch_key(machine_id))
        except (RedisError, OSError):
            return None
        now = now_ms()
        intervals: list[float] = []
        for wish in cast("dict[bytes, bytes]", found).values():
            interval, until = wish.split()
            # One that would hold for longer was wished by a clock that was ahead.
            if now < int(until) <= credible(now) + WATCH_LIFETIME:
                intervals.append(float(interval))
        return min(intervals, default=None)

    async def nudge(self, topic: str) -> None:
        """Have every process poll the database's versions now; lost nudges cost a second."""
        await self.writer.put(lambda pipeline: pipeline.publish(keys.NUDGE, topic))

    async def fence(self, machine_id: UUID, epoch: int) -> None:
        """Tell other processes that connections of the machine before `epoch` are over."""
        message = f"{machine_id} {epoch}"
        await self.writer.put(lambda pipeline: pipeline.publish(keys.FENCE, message))


def _live(packed: bytes | None, note: bytes | None) -> Live:
    sample = unpack_sample(packed)
    if note is None:
        return Live(sample)
    epoch, seen_at = (int(part) for part in note.split())
    # Notes are compared when they are set, samples are not: what an older connection left behind
    # is nobody's latest.
    if sample is not None and sample.epoch < epoch:
        sample = None
    return Live(sample, seen_at)

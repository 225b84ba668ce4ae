"""Samples of watched machines: one bus subscription a machine, however many follow it here."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from remotegpu_core.bus.bus import WATCH_LIFETIME, Bus
from remotegpu_core.bus.keys import sample_channel
from remotegpu_core.bus.samples import Sample, unpack_sample
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL, SAMPLE_INTERVAL

Follower = Callable[[Sample], None]


@dataclass(eq=False)
class _Watched:
    machine_id: uuid.UUID
    followers: dict[Follower, float] = field(default_factory=dict)
    latest: Sample | None = None
    wished: float | None = None

    @property
    def interval(self) -> float:
        return min(self.followers.values(), default=SAMPLE_INTERVAL)

    def receive(self, data: bytes) -> None:
        sample = unpack_sample(data)
        if sample is None:
            return
        latest = self.latest
        # An older connection's leftovers never follow a newer one's samples.
        if latest is not None and sample.epoch < latest.epoch:
            return
        self.latest = sample
        for follower in tuple(self.followers):
            follower(sample)


class SampleFeed:
    """Who follows which machine in this process, and how often they want to hear of it."""

    def __init__(self, bus: Bus, replica_id: uuid.UUID) -> None:
        self._bus = bus
        self._replica_id = replica_id
        self._watched: dict[uuid.UUID, _Watched] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._renew(), name="sample-feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._bus.wish_rate(self._replica_id, dict.fromkeys(self._watched))

    @property
    def watched(self) -> frozenset[uuid.UUID]:
        return frozenset(self._watched)

    async def follow(self, machine_id: uuid.UUID, follower: Follower, *, interval: float) -> None:
        """Have `follower` called with every sample from now on, taken every `interval` seconds."""
        watched = self._watched.get(machine_id)
        if watched is None:
            watched = self._watched[machine_id] = _Watched(machine_id)
            watched.followers[follower] = max(interval, MIN_SAMPLE_INTERVAL)
            await self._bus.listener.subscribe(sample_channel(machine_id), watched.receive)
        else:
            watched.followers[follower] = max(interval, MIN_SAMPLE_INTERVAL)
        await self._wish(watched)

    async def unfollow(self, machine_id: uuid.UUID, follower: Follower) -> None:
        watched = self._watched.get(machine_id)
        if watched is None or watched.followers.pop(follower, None) is None:
            return
        if not watched.followers:
            del self._watched[machine_id]
            await self._bus.listener.unsubscribe(sample_channel(machine_id), watched.receive)
            if machine_id in self._watched:
                # Followed anew in the meantime: that wish stands.
                return
        await self._wish(watched)

    async def samples(
        self, machine_id: uuid.UUID, *, interval: float | None
    ) -> AsyncIterator[Sample]:
        """The latest sample at once, then new ones; at most one in `interval` seconds if given.

        A reader that is slower than the samples gets the newest and never a queue of them.
        """
        newest: list[Sample] = []
        arrived = asyncio.Event()

        def follower(sample: Sample) -> None:
            newest[:] = [sample]
            arrived.set()

        # Live viewers without a wish get one sample a second, as dashboards draw them.
        await self.follow(machine_id, follower, interval=1.0 if interval is None else interval)
        try:
            known = (await self._bus.live([machine_id])).get(machine_id)
            if known is not None and known.sample is not None and not newest:
                follower(known.sample)
            loop = asyncio.get_running_loop()
            last_at = 0
            while True:
                await arrived.wait()
                arrived.clear()
                sample = newest.pop()
                if sample.sampled_at == last_at:
                    continue
                last_at = sample.sampled_at
                due = loop.time() + (interval or 0.0)
                yield sample
                if interval is not None and (early := due - loop.time() - 0.02) > 0:
                    await asyncio.sleep(early)
        finally:
            await self.unfollow(machine_id, follower)

    async def _wish(self, watched: _Watched) -> None:
        """Tell the bus when what this process wants of a machine has changed."""
        wished = watched.interval if watched.followers else None
        if wished is not None and wished >= SAMPLE_INTERVAL:
            wished = None
        if wished != watched.wished:
            watched.wished = wished
            await self._bus.wish_rate(self._replica_id, {watched.machine_id: wished})

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(WATCH_LIFETIME / 3000)
            wishes: dict[uuid.UUID, float | None] = {
                watched.machine_id: watched.wished
                for watched in self._watched.values()
                if watched.wished is not None
            }
            if wishes:
                await self._bus.wish_rate(self._replica_id, wishes)

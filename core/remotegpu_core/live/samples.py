"""Samples of watched machines: one bus subscription a machine, however many follow it here."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from remotegpu_core.bus.bus import WATCH_LIFETIME, Bus
from remotegpu_core.bus.keys import sample_channel
from remotegpu_core.bus.samples import Sample, unpack_sample
from remotegpu_core.tasks import end
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL, SAMPLE_INTERVAL

Follower = Callable[[Sample], None]


@dataclass(eq=False)
class _Watched:
    machine_id: uuid.UUID
    followers: dict[Follower, float] = field(default_factory=dict)
    latest: Sample | None = None

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
        #: What the bus was last told, by machine.
        self._wished: dict[uuid.UUID, float] = {}
        self._renew_now = asyncio.Event()
        bus.listener.on_gap(self._renew_now.set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._renew(), name="sample-feed")

    async def stop(self) -> None:
        await end(self._task)
        self._task = None
        await self._bus.wish_rate(self._replica_id, dict.fromkeys(self._wished))
        self._wished.clear()

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
        await self._wish(machine_id)

    async def unfollow(self, machine_id: uuid.UUID, follower: Follower) -> None:
        watched = self._watched.get(machine_id)
        if watched is None or watched.followers.pop(follower, None) is None:
            return
        if not watched.followers:
            del self._watched[machine_id]
            await self._bus.listener.unsubscribe(sample_channel(machine_id), watched.receive)
        await self._wish(machine_id)

    async def samples(
        self, machine_id: uuid.UUID, *, interval: float | None
    ) -> AsyncGenerator[Sample, None]:
        """The latest sample at once, then new ones; at most one in `interval` seconds if given.

        A reader that is slower than the samples gets the newest and never a queue of them.
        """
        newest: list[Sample] = []
        arrived = asyncio.Event()

        def follower(sample: Sample) -> None:
            newest[:] = [sample]
            arrived.set()

        try:
            # Live viewers without a wish get one sample a second, as dashboards draw them.
            await self.follow(machine_id, follower, interval=1.0 if interval is None else interval)
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

    async def _wish(self, machine_id: uuid.UUID) -> None:
        """Tell the bus when what this process wants of a machine has changed."""
        watched = self._watched.get(machine_id)
        # As things are now: whoever changed them while we waited may have told the bus already.
        wished = watched.interval if watched is not None else None
        if wished is not None and wished >= SAMPLE_INTERVAL:
            wished = None
        if wished == self._wished.get(machine_id):
            return
        if wished is None:
            del self._wished[machine_id]
        else:
            self._wished[machine_id] = wished
        await self._bus.wish_rate(self._replica_id, {machine_id: wished})

    async def _renew(self) -> None:
        """Repeat what is wished before it expires, and at once when the bus may have lost it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_LIFETIME / 3000):
                    await self._renew_now.wait()
            self._renew_now.clear()
            if self._wished:
                await self._bus.wish_rate(self._replica_id, dict(self._wished))

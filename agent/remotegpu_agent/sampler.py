"""When to sample: at a fixed rate, faster while somebody watches."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable

from remotegpu_agent.host_metrics import HostSampler
from remotegpu_agent.link import wall_clock
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL
from remotegpu_protocol.metrics import Metrics


class SampleRate:
    """The interval that holds now: the usual one, or a watcher's while their lease lasts.

    `now` is a monotonic clock in seconds.
    """

    def __init__(self, interval: float) -> None:
        self._usual = max(interval, MIN_SAMPLE_INTERVAL)
        self._watched = self._usual
        self._until = float("-inf")
        self.changed = asyncio.Event()

    def watch(self, *, interval: float, lease: float, now: float) -> None:
        """Sample every `interval` seconds for the next `lease` seconds; 0 ends the watch."""
        self._watched = max(interval, MIN_SAMPLE_INTERVAL)
        self._until = now + lease
        self.changed.set()

    def interval(self, now: float) -> float:
        return min(self._usual, self._watched) if now < self._until else self._usual


class Sampler:
    """Takes samples of host and GPUs, one at a time: a slow source gets fewer, never a queue."""

    def __init__(self, source: GpuSource, host: HostSampler) -> None:
        self._source = source
        self._host = host

    async def take(self) -> Metrics:
        gpus = await self._source.sample()
        # Stamped when everything is known: a slow driver makes a late sample, not an old one.
        return Metrics(sampled_at=wall_clock(), host=self._host.sample(), gpus=gpus)

    async def run(self, send: Callable[[Metrics], object], rate: SampleRate) -> None:
        """Sample until cancelled, first at once."""
        await run_at(rate, lambda: self._sample(send))

    async def _sample(self, send: Callable[[Metrics], object]) -> None:
        send(await self.take())


async def run_at(rate: SampleRate, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` at a rate without drift: each time is a multiple of the interval after the first.

    Times that were missed, because `work` took longer or the host slept, are left out instead of
    made up for. A change of the rate counts from the last time.
    """
    due = time.monotonic()
    while True:
        await work()
        while True:
            # The rate may change, or a lease may end, during the pause.
            now = time.monotonic()
            interval = rate.interval(now)
            rate.changed.clear()
            following = next_due(due, interval, now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(following - now):
                    await rate.changed.wait()
                continue
            due = following
            break


def next_due(last: float, interval: float, now: float) -> float:
    """The first multiple of `interval` after `last` that is not over yet."""
    if now <= last + interval:
        return last + interval
    return last + math.ceil((now - last) / interval) * interval

"""When samples are taken."""

import asyncio
import contextlib
import time

import pytest

from remotegpu_agent.host_metrics import HostSampler
from remotegpu_agent.sampler import Sampler, SampleRate, next_due, run_at
from remotegpu_agent.sources.simulated import SimulatedSource
from remotegpu_protocol.metrics import GpuMetrics, Metrics
from tests.agent.control_plane import background


class Recorder:
    """Notes when it was called, and takes as long as it is told."""

    def __init__(self, takes: float = 0.0) -> None:
        self.times: list[float] = []
        self.takes = takes
        self.running = 0
        self.most = 0

    async def work(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.times.append(time.monotonic())
        await asyncio.sleep(self.takes)
        self.running -= 1


@pytest.mark.parametrize(
    ("last", "interval", "now", "expected"),
    [
        (10.0, 5.0, 10.1, 15.0),
        (10.0, 5.0, 15.0, 15.0),
        (10.0, 5.0, 15.1, 20.0),
        (10.0, 5.0, 31.0, 35.0),
    ],
)
def test_missed_times_are_left_out(
    last: float, interval: float, now: float, expected: float
) -> None:
    assert next_due(last, interval, now) == expected


async def test_a_rate_does_not_drift() -> None:
    """Each call takes a third of the interval, and none adds to the next."""
    recorder = Recorder(takes=0.03)
    async with background(run_at(SampleRate(0.1), recorder.work)):
        await asyncio.sleep(2.05)
    late = [(moment - recorder.times[0]) % 0.1 for moment in recorder.times]
    # With the work's time added to each interval, half of them would be 0.05 s late or more.
    assert sorted(late)[len(late) // 2] < 0.03


async def test_slow_work_gets_fewer_turns_and_never_two_at_once() -> None:
    recorder = Recorder(takes=0.25)
    async with background(run_at(SampleRate(0.1), recorder.work)):
        await asyncio.sleep(1.3)
    assert recorder.most == 1
    assert 2 <= len(recorder.times) <= 5


async def test_no_burst_follows_a_pause() -> None:
    recorder = Recorder(takes=0.6)
    async with background(run_at(SampleRate(0.1), recorder.work)):
        await asyncio.sleep(0.1)
        recorder.takes = 0.0
        await asyncio.sleep(1.0)
    gaps = [
        later - sooner for sooner, later in zip(recorder.times, recorder.times[1:], strict=False)
    ]
    assert min(gaps) > 0.02
    assert len(recorder.times) <= 8


async def test_a_watch_begins_at_once_and_ends_with_its_lease() -> None:
    recorder = Recorder()
    rate = SampleRate(3600.0)
    async with background(run_at(rate, recorder.work)):
        await asyncio.sleep(0.3)
        assert len(recorder.times) == 1
        rate.watch(interval=0.1, lease=0.5, now=time.monotonic())
        await asyncio.sleep(1.5)
        during = len(recorder.times)
    assert 2 <= during <= 8


def test_a_watch_never_slows_sampling_down_nor_passes_ten_a_second() -> None:
    rate = SampleRate(5.0)
    rate.watch(interval=60.0, lease=30.0, now=0.0)
    assert rate.interval(1.0) == 5.0
    rate.watch(interval=0.001, lease=30.0, now=0.0)
    assert rate.interval(1.0) == 0.1
    assert rate.interval(30.0) == 5.0
    rate.watch(interval=1.0, lease=0.0, now=2.0)
    assert rate.interval(2.0) == 5.0


async def test_a_sample_is_stamped_with_the_wall_clock_when_it_is_complete() -> None:
    class Slow(SimulatedSource):
        async def sample(self) -> list[GpuMetrics]:
            await asyncio.sleep(0.2)
            return await super().sample()

    sampler = Sampler(Slow(seed=1, count=1), HostSampler())
    taken: list[Metrics] = []
    began = time.time() * 1000
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await sampler.run(taken.append, SampleRate(3600.0))
    assert len(taken) == 1
    assert began + 190 <= taken[0].sampled_at <= began + 500
    assert len(taken[0].gpus) == 1

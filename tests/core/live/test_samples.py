import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from functools import partial

import pytest

from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.keys import NUDGE, sample_channel
from remotegpu_core.bus.samples import Sample
from remotegpu_core.live import samples as module
from remotegpu_core.live.samples import SampleFeed
from tests.core.hosts import sample
from tests.core.patience import eventually, until
from tests.services.redis import RedisServer

MACHINE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
REPLICA = uuid.UUID(int=11)


@pytest.fixture
async def feed(bus: Bus) -> AsyncIterator[SampleFeed]:
    started = SampleFeed(bus, REPLICA)
    started.start()
    yield started
    await started.stop()


async def publish(bus: Bus, *at: int, epoch: int = 1, machine: uuid.UUID = MACHINE) -> None:
    for moment in at:
        await bus.publish_sample(machine, sample(epoch, moment))


async def watching(bus: Bus, machine: uuid.UUID = MACHINE) -> None:
    """Return when Redis knows of the subscription."""

    async def subscribed() -> bool:
        ((_, number),) = await bus.redis.pubsub_numsub(sample_channel(machine))
        return bool(number)

    await eventually(subscribed)


async def wished(bus: Bus, expected: float | None, machine: uuid.UUID = MACHINE) -> None:
    async def as_expected() -> bool:
        return await bus.wished_rate(machine) == expected

    await eventually(as_expected)


async def test_one_subscription_however_many_follow(bus: Bus, feed: SampleFeed) -> None:
    received: list[list[int]] = [[] for _ in range(50)]

    def receive(number: int, one: Sample) -> None:
        received[number].append(one.sampled_at)

    followers = [partial(receive, number) for number in range(50)]
    for one in followers:
        await feed.follow(MACHINE, one, interval=1.0)
    await watching(bus)
    assert feed.watched == {MACHINE}
    assert bus.listener.channels == {NUDGE, sample_channel(MACHINE)}
    await publish(bus, 1, 2, 3)
    await until(lambda: all(len(one) == 3 for one in received))
    assert received == [[1, 2, 3]] * 50

    for one in followers[1:]:
        await feed.unfollow(MACHINE, one)
    await publish(bus, 4)
    await until(lambda: len(received[0]) == 4)
    assert received[1] == [1, 2, 3]
    await feed.unfollow(MACHINE, followers[0])
    assert feed.watched == frozenset()
    assert bus.listener.channels == {NUDGE}


async def test_wishes_follow_those_who_watch(bus: Bus, feed: SampleFeed) -> None:
    def slow(_one: Sample) -> None: ...

    def fast(_one: Sample) -> None: ...

    await feed.follow(MACHINE, slow, interval=2.0)
    await wished(bus, 2.0)
    await feed.follow(MACHINE, fast, interval=0.2)
    await wished(bus, 0.2)
    await feed.unfollow(MACHINE, fast)
    await wished(bus, 2.0)
    await feed.unfollow(MACHINE, slow)
    await wished(bus, None)
    # Nobody watches faster than agents sample, or wishes for what they do anyway.
    await feed.follow(MACHINE, fast, interval=0.001)
    await wished(bus, 0.1)
    await feed.follow(MACHINE, fast, interval=60.0)
    await wished(bus, None)
    await feed.unfollow(MACHINE, fast)


async def test_changing_viewers_at_once_leaves_the_wish_of_those_who_stay(
    bus: Bus, feed: SampleFeed
) -> None:
    def leaving(_one: Sample) -> None: ...

    def coming(_one: Sample) -> None: ...

    for _ in range(20):
        await feed.follow(MACHINE, leaving, interval=1.0)
        await asyncio.gather(
            feed.unfollow(MACHINE, leaving), feed.follow(MACHINE, coming, interval=0.5)
        )
        await bus.writer._idle.wait()
        assert await bus.wished_rate(MACHINE) == 0.5
        await asyncio.gather(
            feed.follow(MACHINE, leaving, interval=30.0), feed.unfollow(MACHINE, coming)
        )
        await bus.writer._idle.wait()
        assert await bus.wished_rate(MACHINE) is None
        await feed.unfollow(MACHINE, leaving)


async def test_wishes_are_renewed_before_they_expire(
    bus: Bus, feed: SampleFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_LIFETIME", 60)
    await feed.stop()
    feed.start()
    await feed.follow(MACHINE, lambda _one: None, interval=0.5)
    await wished(bus, 0.5)
    await bus.redis.flushall()
    await wished(bus, 0.5)


async def test_wishes_are_withdrawn_at_the_end(bus: Bus) -> None:
    feed = SampleFeed(bus, REPLICA)
    feed.start()
    await feed.follow(MACHINE, lambda _one: None, interval=0.5)
    await wished(bus, 0.5)
    await feed.stop()
    await wished(bus, None)


async def test_a_restarted_redis_learns_the_wishes_at_once(private_redis: RedisServer) -> None:
    bus = Bus(private_redis.url)
    await bus.start()
    feed = SampleFeed(bus, REPLICA)
    feed.start()
    await feed.follow(MACHINE, lambda _one: None, interval=0.5)
    await wished(bus, 0.5)
    private_redis.restart()
    # Long before the next renewal, which is ten seconds away.
    async with asyncio.timeout(8):
        await wished(bus, 0.5)
    await feed.stop()
    await bus.stop()


async def test_the_latest_first_and_then_what_comes(bus: Bus, feed: SampleFeed) -> None:
    await publish(bus, 1, 2)
    await bus.writer._idle.wait()
    following = feed.samples(MACHINE, interval=None)
    assert (await anext(following)).sampled_at == 2
    for at in (3, 4):
        await publish(bus, at)
        assert (await anext(following)).sampled_at == at
    await following.aclose()
    assert feed.watched == frozenset()
    await wished(bus, None)


async def test_without_a_latest_the_first_comes_first(bus: Bus, feed: SampleFeed) -> None:
    following = feed.samples(MACHINE, interval=None)
    first = asyncio.ensure_future(anext(following))
    await watching(bus)
    await publish(bus, 7)
    assert (await first).sampled_at == 7
    await following.aclose()


async def test_a_slow_reader_gets_the_newest_and_no_queue(bus: Bus, feed: SampleFeed) -> None:
    following = feed.samples(MACHINE, interval=None)
    seen: list[int] = []
    await feed.follow(MACHINE, lambda one: seen.append(one.sampled_at), interval=1.0)
    first = asyncio.ensure_future(anext(following))
    await watching(bus)
    await publish(bus, 1)
    assert (await first).sampled_at == 1
    await publish(bus, *range(2, 200))
    await until(lambda: seen[-1:] == [199])
    assert (await anext(following)).sampled_at == 199
    await following.aclose()


async def test_no_more_than_one_in_an_interval(bus: Bus, feed: SampleFeed) -> None:
    following = feed.samples(MACHINE, interval=0.2)
    loop = asyncio.get_running_loop()
    moments: list[float] = []
    values: list[int] = []

    async def read() -> None:
        async for one in following:
            moments.append(loop.time())
            values.append(one.sampled_at)
            if len(moments) == 4:
                break

    reading = asyncio.create_task(read())
    await watching(bus)
    at = 0
    while not reading.done():
        at += 1
        await publish(bus, at)
        await asyncio.sleep(0.01)
    await reading
    await following.aclose()
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    # A fiftieth of a second early, so that an agent's own rhythm is not missed by a hair.
    assert all(gap >= 0.17 for gap in gaps)
    assert values == sorted(values)
    assert values[-1] - values[0] > 10


async def test_the_same_sample_is_not_shown_twice(bus: Bus, feed: SampleFeed) -> None:
    await publish(bus, 5)
    await bus.writer._idle.wait()
    following = feed.samples(MACHINE, interval=None)
    assert (await anext(following)).sampled_at == 5
    following_next = asyncio.ensure_future(anext(following))
    await publish(bus, 5, 5, 6)
    assert (await following_next).sampled_at == 6
    await following.aclose()


async def test_an_older_connections_leftovers_do_not_follow_a_newer_ones(
    bus: Bus, feed: SampleFeed
) -> None:
    seen: list[tuple[int, int]] = []
    await feed.follow(MACHINE, lambda one: seen.append((one.epoch, one.sampled_at)), interval=1.0)
    await watching(bus)
    await publish(bus, 10, epoch=2)
    await publish(bus, 11, epoch=1)
    await bus.redis.publish(sample_channel(MACHINE), b"nonsense")
    await publish(bus, 12, epoch=2)
    await until(lambda: len(seen) >= 2)
    assert seen == [(2, 10), (2, 12)]


@pytest.mark.parametrize("turns", range(8))
async def test_a_viewer_who_leaves_at_any_moment_leaves_nothing_behind(
    bus: Bus, feed: SampleFeed, turns: int
) -> None:
    async def view() -> None:
        async for _one in feed.samples(MACHINE, interval=None):
            pass

    viewing = asyncio.create_task(view())
    for _ in range(turns):
        await asyncio.sleep(0)
    viewing.cancel()
    await asyncio.wait([viewing])
    await asyncio.sleep(0.02)
    assert feed.watched == frozenset()
    assert bus.listener.channels == {NUDGE}
    await wished(bus, None)


async def test_machines_do_not_disturb_one_another(bus: Bus, feed: SampleFeed) -> None:
    seen: list[int] = []
    await feed.follow(MACHINE, lambda one: seen.append(one.sampled_at), interval=1.0)
    await watching(bus)
    await publish(bus, 99, machine=OTHER)
    await publish(bus, 1)
    await until(lambda: seen)
    assert seen == [1]


async def test_samples_come_again_after_redis_was_away(private_redis: RedisServer) -> None:
    bus = Bus(private_redis.url)
    await bus.start()
    feed = SampleFeed(bus, REPLICA)
    feed.start()
    seen: list[int] = []
    await feed.follow(MACHINE, lambda one: seen.append(one.sampled_at), interval=1.0)
    await watching(bus)
    await publish(bus, 1)
    await until(lambda: seen == [1])
    private_redis.restart()

    async def again() -> bool:
        await publish(bus, 2)
        return seen[-1:] == [2]

    await eventually(again)
    await feed.stop()
    await bus.stop()

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from functools import partial

import pytest

from remotegpu_core.bus import bus as module
from remotegpu_core.bus import keys
from remotegpu_core.bus.batch import SNAPSHOT_LIFETIME
from remotegpu_core.bus.bus import Bus, Live
from remotegpu_core.clock import now_ms
from tests.core.clocks import HandClock
from tests.core.hosts import sample
from tests.core.patience import eventually, until
from tests.services.redis import RedisServer

MACHINE = uuid.UUID(int=1)
_questions = itertools.count()
ONE, TWO = uuid.UUID(int=11), uuid.UUID(int=12)


async def sent(bus: Bus) -> None:
    """Everything that was put so far is out: writes keep their order."""
    arrived: list[bytes] = []
    hear = arrived.append
    # Of its own, since answers to questions of before may still be on their way.
    channel = f"sent-{next(_questions)}"
    await bus.listener.subscribe(channel, hear)

    async def heard() -> bool:
        await bus.writer.put(lambda pipeline: pipeline.publish(channel, b"x"))
        return bool(arrived)

    await eventually(heard)
    await bus.listener.unsubscribe(channel, hear)


async def test_a_sample_is_kept_and_sent(bus: Bus) -> None:
    received: list[bytes] = []
    await bus.listener.subscribe(keys.sample_channel(MACHINE), received.append)
    await sent(bus)
    one = sample(3, 1000, utilization=42.0)
    await bus.publish_sample(MACHINE, one)
    await until(lambda: received)
    assert received == [one.pack()]
    live = (await bus.live([MACHINE]))[MACHINE]
    assert live.sample is not None
    assert (live.sample.epoch, live.sample.sampled_at) == (3, 1000)
    assert live.last_seen_at is None

    lifetime = await bus.redis.pttl(keys.latest_key(MACHINE))
    assert 0 < lifetime <= SNAPSHOT_LIFETIME


async def test_the_latest_is_the_latest(bus: Bus) -> None:
    for at in range(1, 51):
        await bus.publish_sample(MACHINE, sample(1, at))
    await sent(bus)
    live = (await bus.live([MACHINE]))[MACHINE]
    assert live.sample is not None
    assert live.sample.sampled_at == 50


async def test_many_machines_in_one_answer(bus: Bus) -> None:
    machines = [uuid.UUID(int=number) for number in range(1, 30)]
    for machine in machines[::2]:
        await bus.publish_sample(machine, sample(1, machine.int))
    for machine in machines[::3]:
        await bus.note_presence(machine, epoch=1, seen_at=machine.int)
    await sent(bus)
    live = await bus.live(machines)
    assert set(live) == set(machines)
    for number, machine in enumerate(machines):
        found = live[machine].sample
        assert (found.sampled_at if found else None) == (None if number % 2 else machine.int)
        assert live[machine].last_seen_at == (None if number % 3 else machine.int)
    assert await bus.live([]) == {}
    assert await bus.live([uuid.UUID(int=99)]) == {uuid.UUID(int=99): Live()}


async def test_what_cannot_be_read_is_nothing(bus: Bus) -> None:
    await bus.redis.set(keys.latest_key(MACHINE), b"\xff" * 50)
    assert (await bus.live([MACHINE]))[MACHINE].sample is None


async def test_an_older_connection_does_not_say_when_the_machine_was_heard(bus: Bus) -> None:
    async def noted(epoch: int, seen_at: int) -> int | None:
        await bus.note_presence(MACHINE, epoch=epoch, seen_at=seen_at)
        await sent(bus)
        return (await bus.live([MACHINE]))[MACHINE].last_seen_at

    assert await noted(9, 100) == 100
    assert await noted(9, 200) == 200
    assert await noted(8, 300) == 200
    # As numbers, not as texts.
    assert await noted(10, 400) == 400
    assert await noted(9, 500) == 400
    assert 0 < await bus.redis.pttl(keys.presence_key(MACHINE)) <= SNAPSHOT_LIFETIME


async def test_the_shortest_wish_of_all_replicas_counts(bus: Bus) -> None:
    assert await bus.wished_rate(MACHINE) is None

    async def wished(replica: uuid.UUID, interval: float | None) -> float | None:
        await bus.wish_rate(replica, {MACHINE: interval})
        await sent(bus)
        return await bus.wished_rate(MACHINE)

    assert await wished(ONE, 1.0) == 1.0
    assert await wished(TWO, 0.1) == 0.1
    assert await wished(ONE, 0.5) == 0.1
    assert await wished(TWO, None) == 0.5
    assert await wished(ONE, None) is None


async def test_wishes_of_a_replica_that_died_expire(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock(now_ms())
    monkeypatch.setattr(module, "now_ms", clock)
    await bus.wish_rate(ONE, {MACHINE: 0.1})
    clock.advance(module.WATCH_LIFETIME // 2)
    await bus.wish_rate(TWO, {MACHINE: 1.0})
    await sent(bus)
    clock.advance(module.WATCH_LIFETIME // 2 - 1)
    assert await bus.wished_rate(MACHINE) == 0.1
    clock.advance(1)
    assert await bus.wished_rate(MACHINE) == 1.0
    clock.advance(module.WATCH_LIFETIME)
    assert await bus.wished_rate(MACHINE) is None
    # And the key with them.
    assert 0 < await bus.redis.pttl(keys.watch_key(MACHINE)) <= module.WATCH_LIFETIME


async def test_who_holds_the_link_hears_of_wishes_nudges_and_fences(bus: Bus) -> None:
    heard: list[tuple[str, bytes]] = []

    def hear(channel: str, data: bytes) -> None:
        heard.append((channel, data))

    for channel in (keys.WATCH, keys.NUDGE, keys.FENCE):
        await bus.listener.subscribe(channel, partial(hear, channel))
    await sent(bus)
    await bus.wish_rate(ONE, {MACHINE: 1.0})
    await bus.nudge("access")
    await bus.fence(MACHINE, 7)
    await until(lambda: len(heard) == 3)
    assert heard == [
        (keys.WATCH, str(MACHINE).encode()),
        (keys.NUDGE, b"access"),
        (keys.FENCE, f"{MACHINE} 7".encode()),
    ]


async def test_what_was_put_last_is_sent_before_the_end(redis_url: str) -> None:
    bus, other = Bus(redis_url), Bus(redis_url)
    await other.start()
    for number in range(1000):
        await bus.wish_rate(ONE, {uuid.UUID(int=number): 0.5})
    await bus.start()
    await bus.wish_rate(ONE, {MACHINE: None})
    await bus.stop()
    assert await other.wished_rate(uuid.UUID(int=999)) == 0.5
    assert await other.wished_rate(MACHINE) is None
    await other.stop()


@pytest.fixture
async def private(private_redis: RedisServer) -> AsyncIterator[Bus]:
    bus = Bus(private_redis.url)
    await bus.start()
    yield bus
    await bus.stop()


async def test_while_redis_is_away_nothing_is_known_and_nothing_fails(
    private_redis: RedisServer, private: Bus
) -> None:
    await private.publish_sample(MACHINE, sample())
    await sent(private)
    private_redis.kill()
    assert await private.live([MACHINE]) == {}
    assert await private.wished_rate(MACHINE) is None
    async with asyncio.timeout(5):
        await private.publish_sample(MACHINE, sample())
        await private.note_presence(MACHINE, epoch=1, seen_at=1)
        await private.nudge("access")
    await until(lambda: private.writer.dropped)

    private_redis.start()

    async def works() -> bool:
        await private.publish_sample(MACHINE, sample(2, 2000))
        known = (await private.live([MACHINE])).get(MACHINE)
        return known is not None and known.sample is not None

    await eventually(works)


async def test_a_flush_leaves_everything_working(private_redis: RedisServer, private: Bus) -> None:
    received: list[bytes] = []
    await private.listener.subscribe(keys.sample_channel(MACHINE), received.append)
    await private.publish_sample(MACHINE, sample())
    await private.note_presence(MACHINE, epoch=5, seen_at=1)
    await private.wish_rate(ONE, {MACHINE: 0.1})
    await sent(private)
    private_redis.flush()
    assert await private.live([MACHINE]) == {MACHINE: Live()}
    assert await private.wished_rate(MACHINE) is None

    received.clear()
    await private.publish_sample(MACHINE, sample(5, 2000))
    await private.note_presence(MACHINE, epoch=5, seen_at=2)
    await private.wish_rate(ONE, {MACHINE: 0.1})
    await sent(private)
    assert received == [sample(5, 2000).pack()]
    assert (await private.live([MACHINE]))[MACHINE].last_seen_at == 2
    assert await private.wished_rate(MACHINE) == 0.1
    assert private.writer.dropped == 0

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog.testing

from remotegpu_core.bus import listener as module
from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.keys import NUDGE
from tests.core.patience import eventually, until
from tests.services.redis import RedisServer


@pytest.fixture
async def private(private_redis: RedisServer) -> AsyncIterator[Bus]:
    bus = Bus(private_redis.url)
    await bus.start()
    yield bus
    await bus.stop()


async def hears(bus: Bus, channel: str) -> None:
    """Return when what is published on `channel` arrives here."""
    heard: list[bytes] = []
    hear = heard.append
    await bus.listener.subscribe(channel, hear)

    async def arrived() -> bool:
        await bus.writer.put(lambda pipeline: pipeline.publish(channel, b"x"))
        return bool(heard)

    await eventually(arrived)
    await bus.listener.unsubscribe(channel, hear)


async def subscribers(bus: Bus, channel: str) -> int:
    ((_, number),) = await bus.redis.pubsub_numsub(channel)
    return int(number)


async def test_one_subscription_however_many_listen(bus: Bus) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    add_first, add_second = first.append, second.append
    await bus.listener.subscribe("a", add_first)
    await bus.listener.subscribe("a", add_second)

    async def subscribed() -> bool:
        return await subscribers(bus, "a") == 1

    await eventually(subscribed)
    await bus.redis.publish("a", b"1")
    await until(lambda: first and second)
    assert (first, second) == ([b"1"], [b"1"])

    await bus.listener.unsubscribe("a", add_first)
    await bus.redis.publish("a", b"2")
    await until(lambda: len(second) == 2)
    assert first == [b"1"]

    await bus.listener.unsubscribe("a", add_second)
    # Once more, and one that never was.
    await bus.listener.unsubscribe("a", add_second)
    await bus.listener.unsubscribe("never", add_second)

    async def gone() -> bool:
        return await subscribers(bus, "a") == 0

    await eventually(gone)
    assert bus.listener.channels == {NUDGE}


async def test_leaving_and_coming_back_at_once_ends_subscribed(bus: Bus) -> None:
    heard: list[bytes] = []
    hear = heard.append
    await bus.listener.subscribe("a", hear)
    for _ in range(20):
        await asyncio.gather(bus.listener.unsubscribe("a", hear), bus.listener.subscribe("a", hear))

    async def arrived() -> bool:
        await bus.redis.publish("a", b"x")
        return bool(heard)

    await eventually(arrived)


async def test_a_callback_that_fails_deafens_nobody(bus: Bus) -> None:
    heard: list[bytes] = []

    def fail(_data: bytes) -> None:
        raise RuntimeError("a bug")

    await bus.listener.subscribe("a", fail)
    await bus.listener.subscribe("a", heard.append)

    async def arrived() -> bool:
        await bus.redis.publish("a", b"x")
        return len(heard) >= 2

    with structlog.testing.capture_logs() as logs:
        await eventually(arrived)
    assert {entry["event"] for entry in logs} == {"bus.callback_failed"}


@pytest.mark.parametrize("how", ["restart", "drop_clients"])
async def test_it_subscribes_again_after_a_loss_and_says_that_there_was_a_gap(
    private_redis: RedisServer, private: Bus, how: str
) -> None:
    gaps = 0

    def gap() -> None:
        nonlocal gaps
        gaps += 1

    private.listener.on_gap(gap)
    heard: list[bytes] = []
    await private.listener.subscribe("a", heard.append)
    await hears(private, "b")
    assert gaps == 0

    getattr(private_redis, how)()
    await until(lambda: gaps == 1)

    async def arrived() -> bool:
        await private.writer.put(lambda pipeline: pipeline.publish("a", b"x"))
        return bool(heard)

    await eventually(arrived)
    await asyncio.sleep(0.05)
    assert gaps == 1


async def test_a_gap_is_told_once_everything_is_subscribed_again(
    private_redis: RedisServer, private: Bus
) -> None:
    heard: list[bytes] = []
    for number in range(50):
        await private.listener.subscribe(f"channel-{number}", heard.append)
    told = asyncio.Event()
    private.listener.on_gap(told.set)
    private_redis.kill()
    # Meanwhile some come and some go.
    await private.listener.subscribe("late", heard.append)
    await private.listener.unsubscribe("channel-0", heard.append)
    private_redis.start()
    async with asyncio.timeout(15):
        await told.wait()
    for channel, expected in (("channel-49", 1), ("late", 1), ("channel-0", 0)):

        async def as_expected(channel: str = channel, expected: int = expected) -> bool:
            return await subscribers(private, channel) == expected

        await eventually(as_expected)


async def test_an_outage_is_one_line(private_redis: RedisServer, private: Bus) -> None:
    await hears(private, "a")
    with structlog.testing.capture_logs() as logs:
        private_redis.kill()
        await asyncio.sleep(0.5)
        private_redis.start()
        await until(lambda: any(entry["event"] == "bus.listening" for entry in logs))
    # The writer may have a line of its own, if it had something to write.
    events = [entry["event"] for entry in logs if entry["event"].startswith("bus.listen")]
    assert events == ["bus.listener_lost", "bus.listening"]


async def test_it_starts_without_redis_and_listens_when_it_comes(
    private_redis: RedisServer,
) -> None:
    private_redis.kill()
    bus = Bus(private_redis.url)
    gaps: list[bool] = []
    bus.listener.on_gap(lambda: gaps.append(True))
    await bus.start()
    try:
        private_redis.start()
        await hears(bus, "a")
        assert gaps == [True]
    finally:
        await bus.stop()


async def test_a_server_that_vanished_without_a_word_is_noticed(
    private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET", 0.2)
    monkeypatch.setattr("remotegpu_core.bus.connection.TIMEOUT", 0.3)
    bus = Bus(private_redis.url)
    await bus.start()
    try:
        with structlog.testing.capture_logs() as logs:
            # A quiet server that answers when asked is no reason to reconnect.
            await asyncio.sleep(0.7)
            assert logs == []
            private_redis.pause()
            await until(lambda: any(entry["event"] == "bus.listener_lost" for entry in logs))
            private_redis.resume()
            await until(lambda: any(entry["event"] == "bus.listening" for entry in logs))
        await hears(bus, "a")
    finally:
        private_redis.resume()
        await bus.stop()


async def test_it_ends_while_redis_is_away(private_redis: RedisServer) -> None:
    bus = Bus(private_redis.url)
    await bus.start()
    private_redis.kill()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(3):
        await bus.stop()

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError

from remotegpu_core.bus import writer as module
from remotegpu_core.bus.batch import MAX_BATCH
from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.writer import MAX_PENDING, Writer
from tests.core.patience import eventually, until
from tests.services.redis import RedisServer


@pytest.fixture
async def private(private_redis: RedisServer) -> AsyncIterator[Bus]:
    bus = Bus(private_redis.url)
    await bus.start()
    yield bus
    await bus.stop()


def count(pipeline: Pipeline) -> object:
    return pipeline.incr("counter")


async def counted(bus: Bus) -> int:
    try:
        return int(await bus.redis.get("counter") or 0)
    except RedisError:
        # This question's own connection may be one that was dropped.
        return -1


async def test_everything_that_gathers_goes_out_together(bus: Bus) -> None:
    for _ in range(3 * MAX_BATCH):
        await bus.writer.put(count)

    async def all_of_it() -> bool:
        return await counted(bus) == 3 * MAX_BATCH

    await eventually(all_of_it)
    assert bus.writer.dropped == 0


async def test_a_full_queue_makes_its_writers_wait_and_loses_nothing(
    private_redis: RedisServer, private: Bus
) -> None:
    writer = private.writer
    private_redis.pause()
    putting = [asyncio.create_task(writer.put(count)) for _ in range(MAX_PENDING + 2 * MAX_BATCH)]
    await until(lambda: writer.pending >= MAX_PENDING)
    await asyncio.sleep(0.05)
    # One batch is on its way; the rest of them wait outside.
    assert writer.pending <= MAX_PENDING
    assert sum(not task.done() for task in putting) >= MAX_BATCH
    private_redis.resume()
    await asyncio.gather(*putting)

    async def all_of_it() -> bool:
        return await counted(private) == len(putting)

    await eventually(all_of_it)
    assert writer.dropped == 0


async def test_while_redis_is_away_writes_are_dropped_and_counted_and_nobody_waits(
    private_redis: RedisServer, private: Bus
) -> None:
    writer = private.writer
    private_redis.kill()
    await writer.put(count)
    await until(lambda: writer.dropped)
    async with asyncio.timeout(2):
        for _ in range(3 * MAX_PENDING):
            await writer.put(count)
    assert writer.pending <= MAX_PENDING
    await until(lambda: writer.dropped == 3 * MAX_PENDING + 1)
    assert writer.pending == 0

    private_redis.start()

    async def works() -> bool:
        await writer.put(count)
        return await counted(private) > 0

    await eventually(works)


async def test_a_redis_that_answers_nothing_holds_ingest_up_once(
    private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remotegpu_core.bus.connection.TIMEOUT", 0.3)
    bus = Bus(private_redis.url)
    await bus.start()
    try:
        await bus.writer.put(count)
        await until(lambda: not bus.writer.pending)
        private_redis.pause()
        async with asyncio.timeout(5):
            for _ in range(10 * MAX_PENDING):
                await bus.writer.put(count)
        assert bus.writer.pending <= MAX_PENDING
        await until(lambda: bus.writer.dropped)
    finally:
        private_redis.resume()
        await bus.stop()


async def test_what_redis_refuses_counts_as_lost(private: Bus) -> None:
    await private.redis.set("text", "no list")
    await private.writer.put(lambda pipeline: pipeline.lpush("text", "x"))
    await private.writer.put(count)

    async def refused() -> bool:
        return private.writer.dropped == 1 and await counted(private) == 1

    await eventually(refused)


async def test_a_full_redis_refuses_and_recovers(private_redis: RedisServer, private: Bus) -> None:
    with private_redis.client() as client:
        client.config_set("maxmemory", "1")
    await private.writer.put(lambda pipeline: pipeline.set("key", "x" * 100))
    await until(lambda: private.writer.dropped == 1)
    with private_redis.client() as client:
        client.config_set("maxmemory", "0")
    await private.writer.put(count)

    async def works() -> bool:
        return await counted(private) == 1

    await eventually(works)


async def test_a_dropped_connection_costs_nothing(private_redis: RedisServer, private: Bus) -> None:
    for number in range(1, 21):
        await private.writer.put(count)

        async def arrived(number: int = number) -> bool:
            return await counted(private) == number

        await eventually(arrived)
        private_redis.drop_clients()
    assert private.writer.dropped == 0


async def test_ending_while_redis_is_away_does_not_take_long(
    private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_CHANCE", 0.2)
    bus = Bus(private_redis.url)
    await bus.start()
    private_redis.pause()
    await bus.writer.put(count)
    async with asyncio.timeout(3):
        await bus.writer.stop()
    private_redis.resume()
    await bus.stop()


async def test_a_writer_that_never_started_ends_at_once() -> None:
    bus = Bus(None)
    await Writer(bus.redis).stop()
    await bus.stop()

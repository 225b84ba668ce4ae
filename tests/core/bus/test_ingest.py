"""Samples and notes on their way from links to Redis, in batches."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remotegpu_core.bus import keys
from remotegpu_core.bus import writer as module
from remotegpu_core.bus.batch import MAX_BATCH
from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.outlet import Outlet
from remotegpu_core.bus.samples import Sample, unpack_sample
from remotegpu_core.bus.writer import MAX_PENDING
from tests.agent.authority import Authority
from tests.core.hosts import sample
from tests.core.patience import until
from tests.services.ports import unused_port
from tests.services.redis import RedisServer

MACHINE = uuid.UUID(int=1)


@pytest.fixture
async def private(private_redis: RedisServer) -> AsyncIterator[Bus]:
    bus = Bus(private_redis.url)
    await bus.start()
    yield bus
    await bus.stop()


async def _listening(bus: Bus, *machines: uuid.UUID) -> list[tuple[int, int]]:
    """Epoch and time of what the machines' channels say from now on."""
    heard: list[tuple[int, int]] = []

    def hear(data: bytes) -> None:
        found = unpack_sample(data)
        assert found is not None
        heard.append((found.epoch, found.sampled_at))

    for machine in machines:
        await bus.listener.subscribe(keys.sample_channel(machine), hear)
    # Subscribing is not waited for: something has to come through first.
    probe = Outlet(machines[0], 0)
    while not heard:
        bus.writer.sample(probe, 0, sample().message)
        await asyncio.sleep(0.02)
    await until(lambda: not bus.writer.pending)
    await asyncio.sleep(0.1)
    heard.clear()
    return heard


async def _latest(bus: Bus, machine: uuid.UUID = MACHINE) -> Sample | None:
    return (await bus.live([machine]))[machine].sample


async def test_every_sample_is_published_and_the_last_is_kept(bus: Bus) -> None:
    machines = [uuid.UUID(int=number) for number in range(1, 8)]
    heard = await _listening(bus, *machines)
    outlets = [Outlet(machine, 1) for machine in machines]
    message = sample().message
    for at in range(1, 40):
        for outlet in outlets:
            assert bus.writer.sample(outlet, at, message)
    await until(lambda: len(heard) == 39 * len(machines))
    for machine in machines:
        latest = await _latest(bus, machine)
        assert latest is not None
        assert latest.pack() == Sample(1, 39, message).pack()
    assert sorted(heard) == sorted((1, at) for at in range(1, 40) for _ in machines)


async def test_an_older_link_replaces_nothing_that_a_newer_one_left(bus: Bus) -> None:
    heard = await _listening(bus, MACHINE)
    message = sample().message
    # As numbers: 256 is more than 255, and a byte less in the first place that differs.
    for epoch, at, expected in (
        (255, 10, (255, 10)),
        (255, 11, (255, 11)),
        (254, 12, (255, 11)),
        (256, 13, (256, 13)),
        (255, 14, (256, 13)),
        (2**40 + 1, 15, (2**40 + 1, 15)),
        (2**40, 16, (2**40 + 1, 15)),
    ):
        bus.writer.sample(Outlet(MACHINE, epoch), at, message)
        await until(lambda: not bus.writer.pending and bus.writer._idle.is_set())
        latest = await _latest(bus)
        assert latest is not None
        assert (latest.epoch, latest.sampled_at) == expected
    await until(lambda: heard[-1:] == [(2**40 + 1, 15)])
    assert [at for _, at in heard] == [10, 11, 13, 15]


async def test_in_one_batch_too(bus: Bus) -> None:
    message = sample().message
    bus.writer.sample(Outlet(MACHINE, 9), 1, message)
    bus.writer.sample(Outlet(MACHINE, 8), 2, message)
    bus.writer.note(Outlet(MACHINE, 9), 100)
    bus.writer.note(Outlet(MACHINE, 8), 200)
    bus.writer.note(Outlet(MACHINE, 9), 90)
    await until(bus.writer._idle.is_set)
    live = (await bus.live([MACHINE]))[MACHINE]
    assert live.sample is not None
    assert (live.sample.epoch, live.last_seen_at) == (9, 100)


async def test_while_redis_is_behind_links_are_told_to_wait_and_keep_their_newest(
    private_redis: RedisServer, private: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEHIND", 0.5)
    writer, outlet = private.writer, Outlet(MACHINE, 1)
    heard = await _listening(private, MACHINE)
    message = sample().message
    private_redis.pause()
    numbers = itertools.count(1)
    writer.sample(outlet, next(numbers), message)
    await until(lambda: not writer.pending)
    while writer.sample(outlet, next(numbers), message):
        assert writer.pending < MAX_PENDING
    # Nothing says yet that it will be long, so nothing is given up.
    assert not writer.sample(outlet, next(numbers), message)
    assert writer.superseded == 0
    await until(lambda: writer._is_behind)
    newest = 0
    for _ in range(100):
        newest = next(numbers)
        assert writer.sample(outlet, newest, message)
    other = Outlet(uuid.UUID(int=2), 1)
    assert not writer.sample(other, 7, message)
    assert writer.pending == MAX_PENDING + 2
    assert writer.superseded == 100
    waiting = asyncio.create_task(writer.room())
    await asyncio.sleep(0.05)
    assert not waiting.done()

    private_redis.resume()
    await waiting
    await until(lambda: heard[-1:] == [(1, newest)])
    await until(writer._idle.is_set)
    assert len(heard) == newest - 100
    assert writer.dropped == 0
    assert await _latest(private, uuid.UUID(int=2)) is not None


async def test_bytes_are_bounded_too(private_redis: RedisServer, private: Bus) -> None:
    writer = private.writer
    private_redis.pause()
    writer.sample(Outlet(MACHINE, 1), 1, b"x")
    await until(lambda: not writer.pending)
    large = b"x" * 200_000
    count = 0
    for number in range(1, MAX_PENDING):
        count += 1
        if not writer.sample(Outlet(uuid.UUID(int=number), 1), 1, large):
            break
    assert count == module.MAX_PENDING_BYTES // len(large) + 1
    private_redis.resume()
    await until(writer._idle.is_set)
    assert writer.dropped == 0
    assert await private.redis.exists(keys.latest_key(uuid.UUID(int=count)))


async def test_what_one_link_has_waiting_goes_in_several_batches_and_in_order(bus: Bus) -> None:
    outlet, message = Outlet(MACHINE, 1), sample().message
    heard = await _listening(bus, MACHINE)
    total = 2 * MAX_BATCH + 5
    for at in range(1, total + 1):
        bus.writer.sample(outlet, at, message)
    await until(lambda: len(heard) == total)
    assert heard == [(1, at) for at in range(1, total + 1)]


async def test_while_redis_is_away_samples_are_dropped_and_nobody_waits(
    private_redis: RedisServer, private: Bus
) -> None:
    writer, message = private.writer, sample().message
    outlets = [Outlet(uuid.UUID(int=number), 1) for number in range(1, 3 * MAX_PENDING)]
    private_redis.kill()
    writer.sample(outlets[0], 1, message)
    await until(lambda: writer.dropped)
    async with asyncio.timeout(2):
        for outlet in outlets:
            if not writer.sample(outlet, 1, message):
                await writer.room()
            if not writer.note(outlet, 1):
                await writer.room()
    assert writer.pending <= MAX_PENDING
    await until(lambda: writer.dropped == 2 * len(outlets) + 1)

    private_redis.start()

    def works() -> bool:
        writer.sample(outlets[0], 2, message)
        return not writer._away

    await until(works)
    await until(writer._idle.is_set)
    assert await _latest(private) is not None


async def test_a_full_redis_keeps_nothing_and_still_tells_viewers(
    private_redis: RedisServer, private: Bus
) -> None:
    heard = await _listening(private, MACHINE)
    with private_redis.client() as client:
        client.flushall()
        client.config_set("maxmemory", "1")
    private.writer.sample(Outlet(MACHINE, 1), 5, sample().message)
    private.writer.note(Outlet(MACHINE, 1), 5)
    await until(lambda: private.writer.dropped == 2)
    await until(lambda: heard == [(1, 5)])
    assert await private.redis.exists(keys.latest_key(MACHINE)) == 0


async def test_a_user_a_password_and_a_database_of_ones_own(private_redis: RedisServer) -> None:
    with private_redis.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "gpu", "on", ">p@ss/word", "~rg:*", "&rg:*", "+@all"
        )
    bus = Bus(
        private_redis.url.replace("redis://", "redis://gpu:p%40ss%2Fword@").rstrip("/0") + "/3"
    )
    await bus.start()
    try:
        await bus.publish_sample(MACHINE, sample(4, 1))
        await until(bus.writer._idle.is_set)
        latest = await _latest(bus)
        assert latest is not None
        assert latest.epoch == 4
        private_redis.drop_clients()
        await bus.publish_sample(MACHINE, sample(4, 2))
        await until(bus.writer._idle.is_set)
        assert bus.writer.dropped == 0
    finally:
        await bus.stop()


async def test_over_tls(private_redis: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    authority.server_context("localhost")
    chain, port = tmp_path / "authority" / "localhost.pem", unused_port()
    with private_redis.client() as client:
        client.config_set("tls-cert-file", str(chain))
        client.config_set("tls-key-file", str(chain))
        client.config_set("tls-ca-cert-file", str(authority.file))
        client.config_set("tls-auth-clients", "no")
        client.config_set("tls-port", str(port))
    bus = Bus(f"rediss://localhost:{port}/0?ssl_ca_certs={authority.file}")
    await bus.start()
    try:
        message = sample().message
        for number in range(1, MAX_BATCH):
            bus.writer.sample(Outlet(uuid.UUID(int=number), 1), 1, message)
        await until(bus.writer._idle.is_set)
        assert bus.writer.dropped == 0
        assert await _latest(bus, uuid.UUID(int=MAX_BATCH - 1)) is not None
    finally:
        await bus.stop()


async def test_what_a_script_may_not_do_is_noticed(private_redis: RedisServer) -> None:
    with private_redis.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "gpu", "on", ">word", "~rg:*", "&rg:nudge", "+@all"
        )
    bus = Bus(private_redis.url.replace("redis://", "redis://gpu:word@"))
    await bus.start()
    try:
        await bus.publish_sample(MACHINE, sample(4, 1))
        await until(lambda: bus.writer.dropped == 1)
    finally:
        await bus.stop()

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import structlog.testing
from tortoise.connection import get_connection

from remotegpu_core.bus.bus import Bus
from remotegpu_core.database.connection import Database
from remotegpu_core.database.transactions import transaction
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.versions import POLL_INTERVAL, Topic, VersionWatch, bump, read_versions
from tests.core.patience import until
from tests.services.postgres import PostgresServer, running_postgres

BUMP = """
import asyncio, sys
from remotegpu_core.database.connection import Database
from remotegpu_core.database.transactions import transaction
from remotegpu_core.settings import load_settings
from remotegpu_core.versions import Topic, bump

async def main():
    database = Database(load_settings(data_dir=sys.argv[1], database_url=sys.argv[2] or None))
    await database.open()
    try:
        async with transaction():
            await bump(Topic.ACCESS)
    finally:
        await database.close()

asyncio.run(main())
"""


class Recorder:
    """Counts the calls of a listener, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None

    def reached(self, calls: int) -> Callable[[], bool]:
        return lambda: self.calls >= calls

    async def __call__(self) -> None:
        self.calls += 1
        if self.fails is not None:
            raise self.fails


@pytest.fixture
async def local() -> AsyncIterator[Bus]:
    bus = Bus(None)
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture
async def watch(database: Database, local: Bus) -> AsyncIterator[VersionWatch]:
    started = VersionWatch(local)
    await started.start()
    yield started
    await started.stop()


async def change(topic: Topic = Topic.ACCESS) -> None:
    async with transaction():
        await bump(topic)


async def test_counting(database: Database) -> None:
    assert await read_versions() == dict.fromkeys(Topic, 0)
    async with transaction():
        assert await bump(Topic.ACCESS) == 1
        assert await bump(Topic.ACCESS) == 2
    assert await read_versions() == {**dict.fromkeys(Topic, 0), Topic.ACCESS: 2}


async def test_counting_at_once_loses_nothing(database: Database) -> None:
    await asyncio.gather(*(change() for _ in range(40)))
    assert (await read_versions())[Topic.ACCESS] == 40


async def test_a_rollback_counts_nothing(database: Database) -> None:
    async def fail() -> None:
        async with transaction():
            await bump(Topic.ACCESS)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert (await read_versions())[Topic.ACCESS] == 0


async def test_a_topic_of_a_newer_version_is_nothing_to_an_older(database: Database) -> None:
    await get_connection("default").execute_query("INSERT INTO version VALUES ('quotas', 5)")
    try:
        assert set(await read_versions()) == set(Topic)
    finally:
        await get_connection("default").execute_query("DELETE FROM version WHERE name = 'quotas'")


async def test_a_change_is_noticed_within_a_second_without_the_bus(watch: VersionWatch) -> None:
    access, changes = Recorder(), Recorder()
    watch.on_change(Topic.ACCESS, access)
    watch.on_change(Topic.MACHINE_CHANGES, changes)
    started = time.monotonic()
    await change()
    await until(lambda: access.calls)
    # A promise of two seconds stands on this.
    assert time.monotonic() - started < POLL_INTERVAL + 0.5
    assert (access.calls, changes.calls) == (1, 0)


async def test_a_nudge_makes_it_at_once(watch: VersionWatch, local: Bus) -> None:
    access = Recorder()
    watch.on_change(Topic.ACCESS, access)
    for number in range(1, 6):
        started = time.monotonic()
        await change()
        await local.nudge("access")
        await until(access.reached(number))
        assert time.monotonic() - started < POLL_INTERVAL / 2


async def test_a_nudge_without_a_change_is_nothing(watch: VersionWatch, local: Bus) -> None:
    access = Recorder()
    watch.on_change(Topic.ACCESS, access)
    for _ in range(5):
        await local.nudge("access")
        await asyncio.sleep(0.01)
    assert access.calls == 0


async def test_a_change_of_another_process(watch: VersionWatch, settings: Settings) -> None:
    access = Recorder()
    watch.on_change(Topic.ACCESS, access)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BUMP, str(settings.data_dir), settings.database_url or "")
    )
    assert await process.wait() == 0
    await until(lambda: access.calls == 1)


async def test_a_listener_that_failed_is_called_again(watch: VersionWatch, local: Bus) -> None:
    access = Recorder()
    access.fails = OSError("the database went away in the middle")
    watch.on_change(Topic.ACCESS, access)
    await change()
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 4):
            await local.nudge("access")
            await until(access.reached(number))
        access.fails = None
        await local.nudge("access")
        await until(lambda: any(entry["event"] == "database.back" for entry in logs))
    calls = access.calls
    await local.nudge("access")
    await asyncio.sleep(0.05)
    assert access.calls == calls
    # An outage is one line, not one a poll.
    assert [entry["event"] for entry in logs] == ["database.away", "database.back"]


async def test_it_outlives_a_bug_of_a_listener(watch: VersionWatch, local: Bus) -> None:
    access = Recorder()
    access.fails = KeyError("a bug")
    watch.on_change(Topic.ACCESS, access)
    with structlog.testing.capture_logs() as logs:
        await change()
        await local.nudge("access")
        await until(lambda: any(entry["event"] == "duty.failed" for entry in logs))
        access.fails = None
        await until(lambda: access.calls == 2)


async def test_it_ends_at_any_moment(database: Database, local: Bus) -> None:
    for turns in range(12):
        watch = VersionWatch(local)
        await watch.start()
        await local.nudge("access")
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await watch.stop()


@pytest.fixture
def private_postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


async def test_it_survives_a_restart_of_postgres(
    private_postgres: PostgresServer, local: Bus, tmp_path: Path
) -> None:
    database = Database(
        load_settings(data_dir=tmp_path, database_url=private_postgres.url("postgres"))
    )
    await database.open()
    await database.migrate()
    watch, access = VersionWatch(local), Recorder()
    watch.on_change(Topic.ACCESS, access)
    await watch.start()
    try:
        await change()
        await local.nudge("access")
        await until(lambda: access.calls == 1)
        with structlog.testing.capture_logs() as logs:
            private_postgres.stop()
            await local.nudge("access")
            await until(lambda: any(entry["event"] == "database.away" for entry in logs))
            private_postgres.start()
            await until(lambda: any(entry["event"] == "database.back" for entry in logs))
        private_postgres.execute("UPDATE version SET value = value + 1 WHERE name = 'access'")
        await until(lambda: access.calls == 2)
        await change()
        await until(lambda: access.calls == 3)
    finally:
        await watch.stop()
        await database.close()

"""Another OS process that writes to the same SQLite file, as the command line does."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from remotegpu_core.database.connection import Database
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import User, Version
from remotegpu_core.settings import Settings
from remotegpu_core.versions import Topic, bump
from tests.core.people import make_user

#: Bumps a version as often as it is told, each in a transaction of its own that lasts a moment.
BUMP = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    connection.execute("BEGIN IMMEDIATE")
    (value,) = connection.execute("SELECT value FROM version WHERE name = 'access'").fetchone()
    time.sleep(0.002)
    connection.execute("UPDATE version SET value = ? WHERE name = 'access'", (value + 1,))
    connection.execute("COMMIT")
"""


@pytest.fixture
async def sqlite(sqlite_settings: Settings) -> AsyncIterator[Settings]:
    database = Database(sqlite_settings)
    await database.open()
    yield sqlite_settings
    await database.close()


@asynccontextmanager
async def another_process(settings: Settings, times: int) -> AsyncIterator[None]:
    """A process that has the file open, writes during the block and has ended after it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", BUMP, str(settings.sqlite_path), str(times)),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        await process.stdin.drain()
        yield
    finally:
        _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_both_write_and_nothing_is_lost(sqlite: Settings) -> None:
    async def read_then_write() -> None:
        # A deferred transaction would fail here whenever the other wrote in between.
        async with transaction():
            value = (await Version.get(name=Topic.ACCESS)).value
            await asyncio.sleep(0.001)
            await Version.filter(name=Topic.ACCESS).update(value=value + 1)

    async with another_process(sqlite, 100):
        for _ in range(20):
            await asyncio.gather(*(read_then_write() for _ in range(5)))
    assert (await Version.get(name=Topic.ACCESS)).value == 200


async def test_statements_outside_of_transactions_wait_too(sqlite: Settings) -> None:
    async with another_process(sqlite, 50):
        for number in range(50):
            await make_user(f"user-{number}")
    assert await User.all().count() == 50


async def test_what_another_process_commits_is_seen_at_once(sqlite: Settings) -> None:
    async with another_process(sqlite, 3):
        pass
    assert (await Version.get(name=Topic.ACCESS)).value == 3
    assert await bump(Topic.ACCESS) == 4


async def test_reading_goes_on_while_another_process_writes(sqlite: Settings) -> None:
    other = sqlite3.connect(sqlite.sqlite_path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE version SET value = 99")
        async with asyncio.timeout(2):
            assert (await Version.get(name=Topic.ACCESS)).value == 0
        other.execute("COMMIT")
    finally:
        other.close()
    assert (await Version.get(name=Topic.ACCESS)).value == 99


async def test_a_crash_of_the_other_leaves_nothing_half_done(sqlite: Settings) -> None:
    other = sqlite3.connect(sqlite.sqlite_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE version SET value = 99")
    other.close()
    assert await bump(Topic.ACCESS) == 1

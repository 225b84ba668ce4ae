"""The same tests on both databases and on both buses."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.bus.bus import Bus
from remotegpu_core.database.connection import Database
from remotegpu_core.settings import Settings, load_settings
from tests.core.emptying import Emptier, emptying
from tests.core.people import make_admin
from tests.services.postgres import PostgresServer

BACKENDS = ("sqlite", "postgres")


def _migrate(settings: Settings) -> None:
    async def run() -> None:
        database = Database(settings)
        await database.open()
        try:
            await database.migrate()
        finally:
            await database.close()

    # On a thread of its own, since a test's loop may be running on this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: migrating takes longer than most tests."""
    settings = load_settings(data_dir=tmp_path_factory.mktemp("template"))
    _migrate(settings)
    return settings.sqlite_path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: PostgresServer) -> Iterator[Emptier]:
    """One migrated database, which `postgres_settings` empties for every test."""
    with postgres_server.database() as url:
        _migrate(load_settings(database_url=url))
        with emptying(url) as emptier:
            yield emptier


@pytest.fixture
def sqlite_settings(sqlite_template: Path, tmp_path: Path) -> Settings:
    """Settings with a migrated SQLite file that nobody has opened."""
    settings = load_settings(data_dir=tmp_path / "state")
    settings.data_dir.mkdir(mode=0o700)
    shutil.copy(sqlite_template, settings.sqlite_path)
    return settings


@pytest.fixture
def postgres_settings(migrated_postgres: Emptier, tmp_path: Path) -> Settings:
    """Settings with a migrated, empty PostgreSQL database that nobody else is connected to."""
    migrated_postgres.empty()
    return load_settings(data_dir=tmp_path / "state", database_url=migrated_postgres.url)


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings with a migrated database, once for SQLite and once for PostgreSQL."""
    chosen: Settings = request.getfixturevalue(f"{request.param}_settings")
    return chosen


@pytest.fixture(params=BACKENDS)
def empty_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with a database that was never migrated."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    return load_settings(data_dir=tmp_path / "state", database_url=url)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The open, migrated database of this process."""
    opened = Database(settings)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def admin(database: Database) -> Actor:
    """An admin through a session of theirs."""
    return await make_admin()


@pytest.fixture(params=("in-process", "redis"))
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """A started bus, once in process and once on a real Redis."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    started = Bus(url)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()

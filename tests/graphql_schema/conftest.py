"""A real control plane with people and machines in it, on either database and bus."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remotegpu_core.control_plane import ControlPlane, control_plane
from remotegpu_core.settings import Settings, load_settings
from remotegpu_graphql.engine import Engine
from tests.graphql_schema.people import ADMIN_PASSWORD
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer


def _prepare(settings: Settings) -> None:
    async def run() -> None:
        async with control_plane(settings):
            pass

    # On a thread of its own, since a test's loop may be running on this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file with its admin, to be copied: making one takes longer than most tests."""
    settings = load_settings(
        data_dir=tmp_path_factory.mktemp("template"), admin_password=ADMIN_PASSWORD
    )
    _prepare(settings)
    return settings.sqlite_path


@pytest.fixture(scope="session")
def postgres_template(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a migrated database with its admin, to be copied."""
    with postgres_server.database() as url:
        data_dir = tmp_path_factory.mktemp("template")
        _prepare(load_settings(data_dir=data_dir, database_url=url, admin_password=ADMIN_PASSWORD))
        yield url.rsplit("/", 1)[1]


@pytest.fixture
def embedded_settings(sqlite_template: Path, tmp_path: Path) -> Settings:
    """SQLite and the in-process bus: the defaults."""
    settings = load_settings(data_dir=tmp_path / "state")
    settings.data_dir.mkdir(mode=0o700)
    shutil.copy(sqlite_template, settings.sqlite_path)
    return settings


@pytest.fixture
def scaled_out_settings(
    postgres_server: PostgresServer,
    postgres_template: str,
    redis_server: RedisServer,
    redis_url: str,
    tmp_path: Path,
) -> Iterator[Settings]:
    """PostgreSQL and a real Redis."""
    with postgres_server.database(template=postgres_template) as url:
        yield load_settings(data_dir=tmp_path / "state", database_url=url, redis_url=redis_url)


@pytest.fixture
async def plane(embedded_settings: Settings) -> AsyncIterator[ControlPlane]:
    """A control plane on the embedded defaults."""
    async with control_plane(embedded_settings) as opened:
        yield opened


@pytest.fixture
async def scaled_out(scaled_out_settings: Settings) -> AsyncIterator[ControlPlane]:
    """A control plane on PostgreSQL and Redis."""
    async with control_plane(scaled_out_settings) as opened:
        yield opened


@pytest.fixture(params=("embedded", "scaled_out"))
async def any_plane(request: pytest.FixtureRequest) -> AsyncIterator[ControlPlane]:
    """The same test on both."""
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    async with control_plane(settings) as opened:
        yield opened


@pytest.fixture
def engine() -> Engine:
    """An engine that has read no document yet."""
    return Engine()

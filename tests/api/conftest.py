"""A real server, a signed-in admin, scripted hosts and live viewers."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
import uvloop

from remotegpu_core.control_plane import control_plane
from remotegpu_core.settings import Settings, load_settings
from tests.api.host import Host, enrolled
from tests.api.plane import ADMIN_PASSWORD, Backend, Server, serving
from tests.services.postgres import PostgresServer

MakeHost = Callable[[str], Awaitable[Host]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that `remotegpu serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def no_surprises(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a library logs as an error (a traceback of an endpoint, a task that died) fails."""
    # A test before this one may have set logging up for the whole process.
    structlog.reset_defaults()
    yield
    said = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not said, [record.getMessage() for record in said]


def _prepare(settings: Settings) -> None:
    async def run() -> None:
        async with control_plane(settings):
            pass

    # On a thread of its own, since a test's loop may be running on this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file with its admin: making one takes longer than most tests."""
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
def embedded(sqlite_template: Path) -> Backend:
    """SQLite and the in-process bus: the defaults."""
    return Backend("embedded", sqlite=sqlite_template)


@pytest.fixture
def scaled_out(
    postgres_server: PostgresServer, postgres_template: str, redis_url: str
) -> Iterator[Backend]:
    """PostgreSQL and a real Redis."""
    with postgres_server.database(template=postgres_template) as url:
        yield Backend("scaled out", database_url=url, redis_url=redis_url)


@pytest.fixture(params=("embedded", "scaled_out"))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Both ways to run."""
    chosen: Backend = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
async def server(embedded: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    """A server on the embedded defaults."""
    async with serving(embedded, tmp_path / "state") as started:
        yield started


@pytest.fixture
async def any_server(backend: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    """The same test on both backends."""
    async with serving(backend, tmp_path / "state") as started:
        yield started


@pytest.fixture
def unguessable() -> str:
    """A recognisable secret, new every time."""
    return f"planted-{secrets.token_hex(16)}"


async def make_hosts(server: Server, admin: str, *names: str) -> list[Host]:
    return [await enrolled(server, admin, name) for name in names]

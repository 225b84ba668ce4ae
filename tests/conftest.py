"""What every test may ask for: real servers, and a process that nothing outside configures."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.services.ports import unused_port
from tests.services.postgres import PostgresServer, running_postgres
from tests.services.redis import RedisServer, running_redis
from tests.services.s3 import S3Server, running_s3

# A developer's own settings must neither change a result nor lead a test to a real database, and
# an outgoing proxy must not stand between a test and its server. Done on import, before any test
# module reads its settings.
for _name in [name for name in os.environ if name.startswith("REMOTEGPU_")]:
    del os.environ[_name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"

# How long an example takes says more about the machine than about the code.
settings.register_profile("remotegpu", deadline=None, print_blob=True)
settings.load_profile("remotegpu")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses."""
    return unused_port()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The redis-server of this test process. Ask for `private_redis` to disturb one."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty Redis."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A redis-server of this test alone: to kill, restart, flush or pause."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL cluster of this test process."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a fresh, empty database, dropped after the test."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The S3 of this test process; take buckets of your own names."""
    with running_s3() as server:
        yield server

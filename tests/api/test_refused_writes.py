"""A database, or a Redis, that answers and takes no changes: a full disk, a lock, read-only.

Changes are answered UNAVAILABLE and nothing of them remains; reading goes on; `/healthz` and
`remotegpu_dependency_up` tell it; it ends by itself when its cause does. No test here may find a
traceback in the log.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from remotegpu_core.database import configuration, failures
from tests.api.plane import Backend, Server, serving
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.small_disk import fill, make_room, small_disk

#: Bytes of the disk that fills up: the migrated database takes about one MiB.
DISK = 24 * 1024 * 1024

CREATE = """
mutation Create($name: String!) {
  createWorkspace(input: {name: $name}) { workspace { name } userErrors { message } }
}"""
READ = "{ viewer { user { username } } }"


@pytest.fixture(autouse=True)
def no_tracebacks() -> Iterator[None]:
    with capture_logs() as entries:
        yield
    structlog.reset_defaults()
    assert [entry for entry in entries if entry.get("exc_info")] == []
    assert [entry for entry in entries if entry["log_level"] in {"error", "critical"}] == []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for longer than a test needs."""
    monkeypatch.setattr(failures, "_REMEMBERED", 1.0)
    monkeypatch.setattr(configuration, "BUSY_TIMEOUT", 500)


async def create(server: Server, token: str, name: str) -> dict[str, Any]:
    response = await server.post(CREATE, {"name": name}, token=token)
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def refused(server: Server, token: str, trouble: str, *, name: str = "refused") -> None:
    """Changes are refused, and it is told; reading works."""
    body = await create(server, token, name)
    (error,) = body["errors"]
    assert error["extensions"]["code"] == "UNAVAILABLE", body
    assert "incident" not in error["extensions"]
    assert (await server.ask(READ, token=token))["viewer"]["user"]["username"] == "admin"
    health = await server.http.get("/healthz")
    assert (health.status_code, health.json()["database"]) == (503, trouble)
    assert 'remotegpu_dependency_up{dependency="database"} 0' in await metrics(server)


async def recovers(server: Server, token: str, *, name: str = "made") -> None:
    """It ends by itself, within seconds, and nothing of what was refused was kept."""

    async def made() -> bool:
        body = await create(server, token, name)
        return "errors" not in body and body["data"]["createWorkspace"]["workspace"] is not None

    async def healthy() -> bool:
        health = await server.http.get("/healthz")
        return health.status_code == 200 and health.json() == {"database": "ok", "bus": "ok"}

    await eventually(made)
    await eventually(healthy)
    assert 'remotegpu_dependency_up{dependency="database"} 1' in await metrics(server)
    listed = await server.ask("{ workspaces { edges { node { name } } } }", token=token)
    names = {edge["node"]["name"] for edge in listed["workspaces"]["edges"]}
    assert name in names
    assert "refused" not in names


async def eventually(true: Callable[[], Awaitable[bool]], *, within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not await true():
        assert time.monotonic() < deadline, f"not within {within:.0f} s"
        await asyncio.sleep(0.1)


async def metrics(server: Server) -> str:
    return (await server.http.get("/metrics")).text


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte is free in the folder's file system for the length of the block."""
    fill(folder)
    yield
    make_room(folder)


async def test_a_full_disk_under_sqlite(embedded: Backend, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, size=DISK):
        async with serving(embedded, disk / "state") as server:
            token = await server.sign_in()
            with filled(disk):
                # The write-ahead log may have room from before: write until it has none.
                await eventually(lambda: is_refused(server, token))
                await refused(server, token, "full")
            await recovers(server, token)


async def test_a_process_that_keeps_sqlite_locked(server: Server) -> None:
    token = await server.sign_in()
    other = sqlite3.connect(server.plane.settings.sqlite_path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(create(server, token, "refused"))
        await asyncio.sleep(0.2)
        # Reading waits for no writer, also not for those that wait themselves.
        async with asyncio.timeout(5):
            assert await server.ask(READ, token=token)
        await writing
        await refused(server, token, "busy")
        other.execute("ROLLBACK")
        await recovers(server, token)
    finally:
        other.close()


async def test_a_postgres_that_became_a_standby(
    scaled_out: Backend, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Sessions keep what they began with, as connections to a former primary do: nobody ends them,
    and writing works again as soon as new ones would."""
    assert scaled_out.database_url is not None
    name = scaled_out.database_url.rsplit("/", 1)[1]
    async with serving(scaled_out, tmp_path / "state") as server:
        token = await server.sign_in()
        postgres_server.refuse_writes(name)
        await eventually(lambda: is_refused(server, token))
        await refused(server, token, "read-only")
        postgres_server.take_writes(name)
        await recovers(server, token)


async def test_a_full_disk_under_postgres(
    scaled_out: Backend, postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    with postgres_server.small_tablespace(DISK) as (tablespace, folder):
        url = postgres_server.url("on_a_small_disk")
        postgres_server.execute(
            f"CREATE DATABASE on_a_small_disk TEMPLATE {postgres_template} TABLESPACE {tablespace}"
        )
        try:
            backend = Backend("small", database_url=url, redis_url=scaled_out.redis_url)
            async with serving(backend, tmp_path / "state") as server:
                token = await server.sign_in()
                with filled(folder):
                    # Tables have some room in the pages that they have.
                    await eventually(lambda: is_refused(server, token))
                    await refused(server, token, "full")
                await recovers(server, token)
        finally:
            postgres_server.execute("DROP DATABASE on_a_small_disk WITH (FORCE)")


async def is_refused(server: Server, token: str) -> bool:
    return "errors" in await create(server, token, f"x{time.monotonic_ns()}")


def out_of_memory(redis: RedisServer) -> None:
    with redis.client() as client:
        client.config_set("maxmemory", "1")


def a_replica(redis: RedisServer) -> None:
    with redis.client() as client:
        client.replicaof("127.0.0.1", "1")


def without_snapshots(redis: RedisServer) -> None:
    """Its snapshots fail, so it keeps nothing new (stop-writes-on-bgsave-error)."""
    # What the snapshot would be renamed to.
    (redis.folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
    with redis.client() as client:
        client.config_set("save", "3600 1")
        client.bgsave()
        while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
            time.sleep(0.05)


def mended(redis: RedisServer) -> None:
    with redis.client() as client:
        client.config_set("maxmemory", "0")
        client.replicaof("NO", "ONE")
        client.config_set("save", "")


@pytest.mark.parametrize("spoil", [out_of_memory, a_replica, without_snapshots])
async def test_a_redis_that_keeps_nothing(
    scaled_out: Backend,
    private_redis: RedisServer,
    tmp_path: Path,
    spoil: Callable[[RedisServer], None],
) -> None:
    backend = Backend("spoilt", database_url=scaled_out.database_url, redis_url=private_redis.url)
    async with serving(backend, tmp_path / "state") as server:
        token = await server.sign_in()
        await asyncio.to_thread(spoil, private_redis)

        async def told() -> bool:
            health = await server.http.get("/healthz")
            return bool(health.json() == {"database": "ok", "bus": "refuses-writes"})

        async def measured() -> bool:
            return 'remotegpu_dependency_up{dependency="bus"} 0' in await metrics(server)

        await eventually(told)
        await eventually(measured)
        # What must not be lost does not depend on it.
        assert "errors" not in await create(server, token, "made-meanwhile")
        mended(private_redis)
        await recovers(server, token)
        assert 'remotegpu_dependency_up{dependency="bus"} 1' in await metrics(server)

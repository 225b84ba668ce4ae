"""Whom the control plane trusts when it opens TLS: real servers with a certificate of a private
authority."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from tortoise.connection import get_connection

from remotegpu_core.bus.connection import connect
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import InvalidInput, Unavailable
from remotegpu_core.s3.measure import Measured, measure
from remotegpu_core.settings import load_settings
from remotegpu_core.trust import bucket_context
from tests.agent.authority import Authority
from tests.core.s3.storage import listing, says, storage
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer
from tests.services.relay import relay
from tests.services.s3 import S3Server


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return Authority(tmp_path / "ca")


@pytest.mark.parametrize("way", ["setting", "SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"])
async def test_a_bucket_behind_a_private_authority(
    authority: Authority, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A real S3 with TLS in front of it."""
    s3_server.fill(f"trusted-{way.lower().replace('_', '-')}", {"a": b"x" * 7})
    location = f"s3://trusted-{way.lower().replace('_', '-')}"
    async with relay(s3_server.port, tls=authority.server_context()) as port:
        endpoint = f"https://localhost:{port}"
        refused = await measure(load_settings(), location, endpoint)
        assert "not trusted: unable to get local issuer certificate" in str(refused.reason)
        assert "REMOTEGPU_CA_FILE" in str(refused.reason)
        settings = load_settings(ca_file=authority.file if way == "setting" else None)
        if way == "SSL_CERT_DIR":
            monkeypatch.setenv(way, str(authority.hashed_directory()))
        elif way != "setting":
            monkeypatch.setenv(way, str(authority.file))
        assert await measure(settings, location, endpoint) == Measured(7, 1)
        # Trusted, but as somebody else.
        other = await measure(settings, location, f"https://127.0.0.1:{port}")
        assert "IP address mismatch" in str(other.reason)


async def test_what_is_no_tls() -> None:
    with storage(says(listing(""))) as server:
        endpoint = server.endpoint.replace("http:", "https:")
        found = await measure(load_settings(), "s3://bucket", endpoint)
    assert found.reason == "The endpoint speaks no TLS that can be used."


async def test_a_bus_behind_a_private_authority(
    authority: Authority, private_redis: RedisServer
) -> None:
    async with relay(private_redis.port, tls=authority.server_context()) as port:
        url = f"rediss://localhost:{port}/0"
        async with connect(url) as client:
            with pytest.raises(RedisConnectionError, match="certificate verify failed"):
                await client.ping()
        async with connect(url, authority.file) as client:
            assert await client.ping()
    # Nothing to verify there.
    async with connect(private_redis.url, authority.file) as client:
        assert await client.ping()


@pytest.fixture
def secure_postgres(authority: Authority, postgres_server: PostgresServer) -> Iterator[str]:
    """Its port is reached as localhost, and its certificate is that of localhost."""
    postgres_server.serve_tls(authority.certificate_file("localhost"))
    try:
        yield f"localhost:{postgres_server.port}"
    finally:
        postgres_server.serve_tls(None)


async def test_a_database_behind_a_private_authority(
    authority: Authority,
    secure_postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"postgres://remotegpu@{secure_postgres}/postgres?sslmode="

    async def opens(mode: str, ca_file: Path | None = None) -> bool | None:
        """Whether TLS is used, as PostgreSQL says it; None where it is not opened."""
        settings = load_settings(database_url=url + mode, ca_file=ca_file)
        database = Database(settings)
        try:
            await database.open()
        except (InvalidInput, Unavailable) as error:
            return None if "certificate verify failed" in error.message else False
        try:
            (row,) = await get_connection("default").execute_query_dict(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            return bool(row["ssl"])
        finally:
            await database.close()

    assert await opens("verify-full") is None
    assert await opens("verify-full", authority.file)
    assert await opens("verify-ca", authority.file)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert await opens("verify-full")
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await opens("require")


def test_authorities_that_cannot_be_read(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket_context(authority.file)
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for file in (empty, tmp_path / "none.pem", tmp_path):
        with pytest.raises(InvalidInput, match=r"REMOTEGPU_CA_FILE names .*PEM certificates"):
            bucket_context(file)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(empty))
    with pytest.raises(InvalidInput, match="AWS_CA_BUNDLE names"):
        bucket_context(None)

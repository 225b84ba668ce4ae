"""Run beside a dead address: what the control plane reaches by the other address of a name.

Arguments are the unix sockets of a PostgreSQL and of a Redis.
"""

import asyncio
import ssl
import sys
import tempfile
from pathlib import Path

import asyncpg
import uvloop

from remotegpu_api.event_loop import Loop
from remotegpu_core.bus.connection import connect
from remotegpu_core.s3.measure import Measured, measure
from remotegpu_core.settings import load_settings
from tests.agent.authority import Authority
from tests.core.s3.storage import listing, says, storage
from tests.services.dead_address import NAME
from tests.services.postgres import USER
from tests.services.relay import relay


async def databases(postgres: str, redis: str) -> None:
    async with relay(Path(postgres)) as port:
        connection = await asyncpg.connect(
            host=NAME, port=port, user=USER, database="postgres", timeout=5
        )
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    async with relay(Path(redis)) as port, connect(f"redis://{NAME}:{port}/0") as client:
        assert await client.ping()


async def buckets() -> None:
    one = listing("<IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>7</Size></Contents>")
    with storage(says(one)) as server:
        endpoint = f"http://{NAME}:{server.server_address[1]}"
        found = await measure(load_settings(), "s3://bucket", endpoint)
        assert found == Measured(7, 1), found
        found = await measure(load_settings(s3_allow_link_local=True), "s3://bucket", endpoint)
        assert found == Measured(7, 1), found
    nobody = await measure(load_settings(), "s3://bucket", "http://127.0.0.1:1")
    assert "EndpointConnectionError" in str(nobody.reason)


async def certificates(folder: Path) -> None:
    """The name that is checked is still the one that was asked for."""
    authority = Authority(folder / "ca")

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    trusting = ssl.create_default_context(cafile=authority.file)
    for name in (NAME, "elsewhere.test"):
        context = authority.server_context(name)
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                reader, writer = await asyncio.open_connection(NAME, port, ssl=trusting)
            except ssl.SSLCertVerificationError:
                assert name != NAME
            else:
                assert name == NAME
                assert await reader.readline() == b"hello\n"
                writer.close()


async def failures() -> None:
    for host, error in (("127.0.0.1", ConnectionRefusedError), ("nowhere.invalid", OSError)):
        try:
            await asyncio.open_connection(host, 1)
        except error:
            continue
        raise AssertionError(host)


async def main(postgres: str, redis: str) -> None:
    await databases(postgres, redis)
    await buckets()
    with tempfile.TemporaryDirectory() as directory:
        await certificates(Path(directory))
    await failures()
    sys.stdout.write("all of it\n")


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]), loop_factory=Loop)

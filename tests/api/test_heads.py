"""Requests whose line and headers never end, grow without end, or come one after another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from remotegpu_api import http_protocol
from remotegpu_api.http_protocol import MAX_HEAD
from tests.api.plane import Server
from tests.api.viewer import PATIENCE
from tests.core.patience import until

ASKING = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def dialled(
    server: Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), PATIENCE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_a_head_has_to_end_in_time(server: Server) -> None:
    async with dialled(server) as (reader, writer):
        writer.write(ASKING)
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    # However lively it trickles in.
    async with dialled(server) as (reader, writer):
        writer.write(ASKING)

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(b"x-more: 1\r\n")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert b" 408 " in await rest(reader)
        trickling.cancel()
    # Who says nothing hears nothing.
    async with dialled(server) as (reader, _writer):
        assert await rest(reader) == b""


@pytest.mark.usefixtures("impatient")
async def test_time_counts_anew_for_each_request(server: Server) -> None:
    async with dialled(server) as (reader, writer):
        for _ in range(3):
            await asyncio.sleep(0.2)
            writer.write(ASKING + b"\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            assert answer.startswith(b"HTTP/1.1 200 ")
            [length] = [
                int(line.split(b":")[1])
                for line in answer.lower().splitlines()
                if line.startswith(b"content-length")
            ]
            await reader.readexactly(length)
        writer.write(ASKING)
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_a_head_has_to_end_in_size(server: Server) -> None:
    async with dialled(server) as (reader, writer):
        writer.write(ASKING)

        async def grow() -> None:
            while not writer.is_closing():
                writer.write(b"x-more: " + b"1" * 1000 + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)

        growing = asyncio.create_task(grow())
        answer = await asyncio.wait_for(reader.readline(), PATIENCE)
        assert answer == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
        growing.cancel()
        await asyncio.gather(growing, return_exceptions=True)
    # Also at once, in one line or in many, in the request's own line, and to the byte.
    for head in (
        ASKING + b"x-more: " + b"1" * 100_000,
        ASKING + b"x-more: 1\r\n" * 10_000,
        b"GET /livez?" + b"1" * 100_000 + b" HTTP/1.1\r\nHost: localhost",
        ASKING + _filled(MAX_HEAD + 1) + b"\r\nConnection: close",
    ):
        async with dialled(server) as (reader, writer):
            writer.write(head + b"\r\n\r\n")
            assert (await rest(reader)).startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
    async with dialled(server) as (reader, writer):
        writer.write(ASKING + _filled(MAX_HEAD) + b"\r\nConnection: close\r\n\r\n")
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 ")
    # What people and browsers send fits many times.
    cookies = {"cookie": "; ".join(f"name{n}={'v' * 200}" for n in range(MAX_HEAD // 400))}
    assert (await server.http.get("/livez", headers=cookies)).status_code == 200


def _filled(size: int) -> bytes:
    """A header that makes a head of `size` bytes with ASKING and the end of a connection."""
    rest = len(b"/livez" + b"host" + b"localhost" + b"connection" + b"close") + 3 * 4
    return b"x-more: " + b"1" * (size - rest - 4 - len(b"x-more"))


HOSTS = [
    (b"GET /livez HTTP/1.1\r\n", 400),
    (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n", 400),
    (b"GET /livez HTTP/1.1\r\nHost: a b\r\n", 400),
    (b"GET /livez HTTP/1.1\r\nHost: a/b\r\n", 400),
    (b"GET /graphql HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", 400),
    (b"GET /livez HTTP/1.1\r\nHost:\r\n", 200),
    (b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\n", 200),
    (b"GET /livez HTTP/1.0\r\n", 200),
]


async def test_a_request_names_one_host(server: Server) -> None:
    for head, status in HOSTS:
        async with dialled(server) as (reader, writer):
            writer.write(head + (b"\r\n" if b"Upgrade" in head else b"Connection: close\r\n\r\n"))
            answer = await rest(reader)
            assert answer.split(b" ", 2)[1] == str(status).encode(), (head, answer)


async def test_what_cannot_be_parsed_after_a_refused_request_is_dropped(server: Server) -> None:
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    for head in (b"GET /livez HTTP/1.1\r\n\r\n", b""):
        async with dialled(server) as (reader, writer):
            writer.write(head + b"NO HTTP AT ALL\r\n\r\n")
            answer = await rest(reader)
            assert answer.count(b"HTTP/1.1 400 Bad Request\r\n") == 1, (head, answer)
    assert faults == []


async def test_a_body_that_is_too_long_is_refused_before_it_comes(server: Server) -> None:
    for path, length in ((b"/graphql", 300_000), (b"/sign-in", 5_000), (b"/graphql", 10**30)):
        async with dialled(server) as (reader, writer):
            writer.write(
                b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                b"\r\nExpect: 100-continue\r\nContent-Length: " + str(length).encode() + b"\r\n\r\n"
            )
            status = await asyncio.wait_for(reader.readline(), PATIENCE)
            assert status.split()[1] in {b"413", b"400"}, path


async def test_the_rest_of_a_request_that_was_answered_has_an_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "REST_TIMEOUT", 0.2)
    async with dialled(server) as (reader, writer):
        writer.write(ASKING + b"Content-Length: 1000\r\n\r\n")

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 ")
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)


@pytest.mark.usefixtures("impatient")
async def test_a_body_may_take_longer_than_a_head(server: Server) -> None:
    body = b'{"query": "{ __typename }"}'
    async with dialled(server) as (reader, writer):
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        await asyncio.sleep(0.5)
        writer.write(body)
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Query" in answer
    await until(lambda: server.state.anonymous_requests.taken == 0)

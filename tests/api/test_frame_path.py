"""Frames on a real socket: the bytes, flow control, pings, and every way that sockets end."""

import asyncio
import json
import socket as sockets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import connect

from remotegpu_api.websocket_protocol import MAX_UNSENT
from tests.agent.authority import Authority
from tests.api.frame_reader import CLOSE, PING, PONG, TEXT, Wire, WireFrame, masked
from tests.api.frame_server import FrameServer, Side, serving_frames
from tests.core.patience import until
from tests.services.ports import LOOPBACK

#: Bytes, on both sides of each step in the header's form and of what a transport holds.
LENGTHS = (0, 1, 125, 126, 127, 65535, 65536, 65537, 300_000)


@pytest.fixture(params=("plain", "TLS"))
async def frame_server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[FrameServer, ssl.SSLContext | None]]:
    """A server, and what a client needs to trust it."""
    if request.param == "plain":
        async with serving_frames() as server:
            yield server, None
        return
    authority = Authority(tmp_path / "ca")
    async with serving_frames(authority.server_context()) as server:
        yield server, ssl.create_default_context(cafile=authority.file)


def _connected(server: FrameServer, tls: ssl.SSLContext | None) -> connect:
    # The library offers permessage-deflate unless it is told not to.
    return connect(
        server.url, ssl=tls, max_size=None, max_queue=None, proxy=None, ping_interval=None
    )


async def _offered(side: Side, message: bytes) -> None:
    """Like the hub's writer: wait while the transport is full, then offer again."""
    async with asyncio.timeout(15):
        while not side.writer.offer(message):
            await side.writer.finish()


async def test_frames_are_what_plain_sends_are(
    frame_server: tuple[FrameServer, ssl.SSLContext | None],
) -> None:
    server, tls = frame_server
    async with _connected(server, tls) as client:
        # Compression was offered, and is not in use.
        assert client.protocol.extensions == []
        assert client.request is not None
        assert "permessage-deflate" in client.request.headers["Sec-WebSocket-Extensions"]
        side = await server.side()
        for length in LENGTHS:
            text = ("ü€😀" * (length // 9) + "x" * (length % 9)) if length else ""
            assert len(text.encode()) == length
            await side.text(text)
            await _offered(side, text.encode())
            plain, framed = await client.recv(), await client.recv()
            assert plain == framed == text
        # Read again by hand: the same bytes, header and all.
    if tls is None:
        wire = await Wire.dialled(LOOPBACK, server.port)
        side = await server.side()
        for length in LENGTHS:
            await side.text("x" * length)
            await _offered(side, b"x" * length)
            assert await wire.frame() == await wire.frame()
        await wire.end()


async def test_pings_of_both_sides_go_between_frames(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with serving_frames(authority.server_context(), ping_interval=0.02) as server:
        tls = ssl.create_default_context(cafile=authority.file)
        async with _connected(server, tls) as client:
            side = await server.side()

            async def burst() -> None:
                for number in range(2000):
                    await _offered(side, json.dumps([number, "x" * (number % 300)]).encode())
                    if number % 20 == 0:
                        await asyncio.sleep(0.002)

            await until(lambda: side.protocol.ping_sent_at)
            first = side.protocol.ping_sent_at
            bursting = asyncio.create_task(burst())
            pongs = []
            for number in range(2000):
                if number % 10 == 0:
                    pongs.append(await client.ping())
                assert json.loads(await client.recv()) == [number, "x" * (number % 300)]
            await bursting
            async with asyncio.timeout(15):
                for pong in pongs:
                    await pong
            # One is only sent when the one before it was answered.
            assert side.protocol.ping_sent_at > first
            last = side.protocol.ping_sent_at
            await until(lambda: side.protocol.ping_sent_at > last)
            await client.send("still here")
            await until(lambda: side.received == ["still here"])


async def _burst(side: Side) -> int:
    """Offer frames until none is taken any more; the number that was."""
    taken = 0
    while True:
        if side.writer.offer(b'{"n":%d}' % taken):
            taken += 1
            if taken % 50 == 0:
                await asyncio.sleep(0)
            continue
        try:
            await side.writer.finish()
        except OSError:
            return taken


async def test_nothing_follows_a_close_frame_of_the_server() -> None:
    async with serving_frames() as server:
        for number in range(20):
            wire = await Wire.dialled(LOOPBACK, server.port)
            side = await server.side()
            bursting = asyncio.create_task(_burst(side))
            await asyncio.sleep(0.001 * (number % 5))
            await side.send({"type": "websocket.close", "code": 4403, "reason": "over"})
            assert not side.writer.offer(b"late")
            frames: list[WireFrame] = []
            while not frames or frames[-1].opcode != CLOSE:
                frames.append(await wire.frame())
            taken = await bursting
            assert [f.payload for f in frames[:-1]] == [b'{"n":%d}' % n for n in range(taken)]
            assert frames[-1].payload == (4403).to_bytes(2) + b"over"
            wire.writer.write(masked(CLOSE, (4403).to_bytes(2)))
            assert await wire.rest() == []
            await wire.end()


async def test_nothing_follows_the_answer_to_a_clients_close() -> None:
    async with serving_frames() as server:
        for number in range(20):
            wire = await Wire.dialled(LOOPBACK, server.port)
            side = await server.side()
            bursting = asyncio.create_task(_burst(side))
            await asyncio.sleep(0.001 * (number % 5))
            wire.writer.write(masked(PING, b"?") + masked(CLOSE, (1000).to_bytes(2)))
            frames = await wire.rest()
            taken = await bursting
            assert frames[-1].opcode == CLOSE
            assert [f.opcode for f in frames if f.opcode != TEXT] == [PONG, CLOSE]
            # Everything that was taken is there: closing throws nothing away.
            assert sum(f.opcode == TEXT for f in frames) == taken
            await wire.end()


async def test_a_peer_that_vanishes_ends_the_frames() -> None:
    async with serving_frames() as server:
        for _ in range(10):
            wire = await Wire.dialled(LOOPBACK, server.port)
            side = await server.side()
            bursting = asyncio.create_task(_burst(side))
            await asyncio.sleep(0.002)
            await wire.end()
            async with asyncio.timeout(15):
                await bursting
            assert not side.writer.offer(b"late")
            with pytest.raises(ClientDisconnected):
                await side.writer.finish()


async def _fill(side: Side) -> int:
    """Offer 4 KiB frames until none is taken for a while; the bytes that are held here then."""
    refused = 0
    for _ in range(20_000):
        if side.writer.offer(b"x" * 4096):
            refused = 0
            continue
        # The sockets may still take what the transport holds.
        refused += 1
        if refused == 10:
            return side.protocol.transport.get_write_buffer_size()
        await asyncio.sleep(0.02)
    raise AssertionError("80 MB were taken for a reader that reads nothing")


async def test_a_stalled_reader_costs_a_bounded_buffer(
    frame_server: tuple[FrameServer, ssl.SSLContext | None],
) -> None:
    server, tls = frame_server
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (LOOPBACK, server.port))
    async with connect(
        server.url, sock=narrow, ssl=tls, max_queue=None, proxy=None, ping_interval=None
    ) as client:
        side = await server.side()
        client.transport.pause_reading()
        held = await _fill(side)
        assert MAX_UNSENT // 4 < held <= MAX_UNSENT + 5000
        waiting = asyncio.create_task(side.writer.finish())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        client.transport.resume_reading()
        async with asyncio.timeout(15):
            await waiting
            assert side.writer.offer(b"again")
            while await client.recv() != "again":
                pass

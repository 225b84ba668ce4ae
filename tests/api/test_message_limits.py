"""Messages from clients are bounded by path, whole or in pieces, before anybody holds more."""

import asyncio
import contextlib
from collections.abc import Iterator

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_api.live.messages import MAX_MESSAGE
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES
from remotegpu_protocol.limits import SUBPROTOCOL as AGENT
from tests.api.frame_reader import CLOSE, PING, TEXT, Wire, WireFrame, masked
from tests.api.frame_server import serving_frames
from tests.api.plane import Server
from tests.api.viewer import PROTOCOL
from tests.core.patience import until
from tests.services.ports import LOOPBACK

CONTINUATION = 0x0

LIMITS = (
    ("/graphql", PROTOCOL, MAX_MESSAGE),
    ("/agent", Subprotocol(AGENT), MAX_MESSAGE_BYTES),
    # Another spelling of a path is no way around its limit.
    ("/%67raphql", PROTOCOL, MAX_MESSAGE),
)


def _connected(server: Server, path: str, subprotocol: Subprotocol) -> connect:
    return connect(
        f"{server.websocket_url}{path}",
        subprotocols=[subprotocol],
        compression=None,
        proxy=None,
        close_timeout=2,
    )


def _pieces(message: bytes, size: int) -> Iterator[bytes]:
    return (message[start : start + size] for start in range(0, len(message), size))


async def _code(websocket: ClientConnection, message: bytes, size: int | None) -> int | None:
    """What the server closes with after `message`, in fragments of `size` or whole."""
    try:
        async with asyncio.timeout(15):
            await websocket.send(message if size is None else _pieces(message, size))
            while True:
                await websocket.recv()
    except ConnectionClosed:
        return websocket.close_code


async def test_one_byte_more_closes_with_1009(server: Server) -> None:
    for path, subprotocol, limit in LIMITS:
        for size in (None, 1000, limit):
            with structlog.testing.capture_logs() as logs:
                async with _connected(server, path, subprotocol) as websocket:
                    assert await _code(websocket, b"\x01" * (limit + 1), size) == 1009
            refused = [line for line in logs if line["event"] == "websocket.refused"]
            assert [line["code"] for line in refused] == [1009], (path, size, logs)
            # As much as is allowed gets to the application, which finds nonsense in it.
            async with _connected(server, path, subprotocol) as websocket:
                assert await _code(websocket, b"\x01" * limit, size) in {1011, 4000, 4400}, path


async def test_one_that_sends_much_more_still_hears_why(server: Server) -> None:
    for path, subprotocol, limit in LIMITS[:2]:
        for size in (None, 5000):
            async with _connected(server, path, subprotocol) as websocket:
                assert await _code(websocket, bytes(8 * limit), size) == 1009


async def test_pieces_are_held_once_and_never_beyond_the_limit() -> None:
    async with serving_frames() as server:
        wire = await Wire.dialled(LOOPBACK, server.port)
        side = await server.side()
        protocol = side.protocol

        def held() -> int:
            return len(protocol._fragments or b"") + len(protocol.conn.reader.buffer)

        # Empty fragments, and as many of one byte as there may be.
        wire.writer.write(masked(TEXT, b"", fin=False))
        wire.writer.write(masked(CONTINUATION, b"", fin=False) * 100_000)
        wire.writer.write(masked(CONTINUATION, b"x", fin=False) * MAX_MESSAGE)
        await until(lambda: held() == MAX_MESSAGE)
        assert protocol.frames == []
        # What will be too long is known from its header, before its bytes are waited for.
        wire.writer.write(masked(CONTINUATION, b"x", fin=False))
        frames = await wire.rest()
        assert [f.opcode for f in frames] == [CLOSE]
        assert frames[0].payload[:2] == (1009).to_bytes(2)
        assert (held(), side.received) == (0, [])
        await wire.end()

        wire = await Wire.dialled(LOOPBACK, server.port)
        side = await server.side()
        wire.writer.write(masked(TEXT, b"a" * 30, fin=False) + masked(PING, b"between"))
        wire.writer.write(masked(CONTINUATION, "ü".encode()[:1], fin=False))
        wire.writer.write(masked(CONTINUATION, "ü".encode()[1:] + b"z") + masked(TEXT, b"next"))
        await until(lambda: side.received == ["a" * 30 + "üz", "next"])
        wire.writer.write(masked(TEXT, bytes(2**20))[:14])
        assert (await wire.rest())[-1].payload[:2] == (1009).to_bytes(2)
        await wire.end()


async def test_frames_before_the_websocket_is_open_end_it_quietly() -> None:
    async with serving_frames() as server:
        for early in (masked(TEXT, bytes(MAX_MESSAGE + 1)), b"\xff\xff", masked(CLOSE, b"")):
            server.accepts.clear()
            wire = await Wire.connected(LOOPBACK, server.port)
            await until(server.accepts_are_asked_for)
            wire.writer.write(early)
            async with asyncio.timeout(15):
                with contextlib.suppress(ConnectionResetError):
                    assert b"HTTP/1.1 101" not in await wire.reader.read()
            await wire.end()
            server.accepts.set()
        # And the server goes on.
        wire = await Wire.dialled(LOOPBACK, server.port)
        side = await server.side()
        wire.writer.write(masked(TEXT, b"hello"))
        await until(lambda: side.received == ["hello"])
        await wire.end()


async def test_what_follows_a_breach_in_the_same_breath_is_dropped() -> None:
    not_text, too_long = masked(TEXT, b"\xff\xfe"), masked(TEXT, bytes(MAX_MESSAGE + 1))
    more, close = masked(CONTINUATION, b"re"), masked(CLOSE, (1000).to_bytes(2))
    follows = masked(PING, b"?") + masked(TEXT, b"more") + masked(TEXT, b"mo", fin=False)
    cases = [
        (not_text + follows + more, 1007),
        (not_text + follows + more + close, 1000),
        # Frames are read before texts are: of two breaches, the later one here is seen first.
        (not_text + b"\xff\xff", 1002),
        *((too_long + follows + end, 1009) for end in (more, close, b"\xff\xff")),
    ]
    async with serving_frames() as server:
        for said, code in cases:
            wire = await Wire.dialled(LOOPBACK, server.port)
            side = await server.side()
            wire.writer.write(masked(PING, b"!") + said)
            # Again, when the close frame is on its way.
            await asyncio.sleep(0.02)
            wire.writer.write(follows + said)
            frames = await wire.rest()
            assert frames[-1] == WireFrame(CLOSE, code.to_bytes(2) + frames[-1].payload[2:])
            assert (side.received, side.writer.offer(b"late")) == ([], False)
            await wire.end()

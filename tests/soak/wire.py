"""Connections by hand: whatever bytes one likes, at the level of TCP and of websocket frames."""

import asyncio
import base64
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

#: Seconds that the server may take to answer or to close.
PATIENCE = 20.0
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Wire:
    """A TCP connection. What the server closes is no error here, only `open` is false then."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @property
    def open(self) -> bool:
        return not self.reader.at_eof() and not self._writer.is_closing()

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(data)
            async with asyncio.timeout(PATIENCE):
                await self._writer.drain()

    async def send_frame(
        self, payload: bytes, *, opcode: int = TEXT, final: bool = True, reserved: int = 0
    ) -> None:
        await self.send(frame(payload, opcode=opcode, final=final, reserved=reserved))

    async def receive_frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload; None at the end."""
        try:
            async with asyncio.timeout(PATIENCE):
                first, second = await self.reader.readexactly(2)
                length = second & 127
                if length == 126:
                    (length,) = struct.unpack(">H", await self.reader.readexactly(2))
                elif length == 127:
                    (length,) = struct.unpack(">Q", await self.reader.readexactly(8))
                return first & 15, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def drain(self, seconds: float) -> bytes:
        """What comes within a time, without waiting for more."""
        seen = b""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(seconds):
                while data := await self.reader.read(65536):
                    seen = (seen + data)[-65536:]
        return seen

    def cut(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def dialled(port: int, *, source: str | None = None) -> AsyncIterator[Wire]:
    """`source`: the address of loopback that the connection comes from."""
    local = None if source is None else (source, 0)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
    wire = Wire(reader, writer)
    try:
        yield wire
    finally:
        wire.cut()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def upgrade(wire: Wire, path: str, subprotocol: str, random: Random) -> bool:
    """The websocket's handshake; whether the server took it."""
    key = base64.b64encode(random.randbytes(16)).decode()
    await wire.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n".encode()
    )
    try:
        async with asyncio.timeout(PATIENCE):
            head = await wire.reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return False
    return head.startswith(b"HTTP/1.1 101 ")


def frame(payload: bytes, *, opcode: int = TEXT, final: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, masked with zeros."""
    head = bytes([(128 if final else 0) | (reserved << 4) | opcode])
    if len(payload) < 126:
        head += bytes([128 | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack(">BH", 128 | 126, len(payload))
    else:
        head += struct.pack(">BQ", 128 | 127, len(payload))
    return head + bytes(4) + payload

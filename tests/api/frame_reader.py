"""Reading a server's frames off the wire: everything until it closes, nothing tidied up."""

import asyncio
import contextlib
from dataclasses import dataclass

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

_HANDSHAKE = (
    b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@dataclass(frozen=True)
class WireFrame:
    opcode: int
    payload: bytes


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    first = opcode | (0x80 if fin else 0)
    if len(payload) < 126:
        head = bytes([first, 0x80 | len(payload)])
    elif len(payload) < 65536:
        head = bytes([first, 0x80 | 126]) + len(payload).to_bytes(2)
    else:
        head = bytes([first, 0x80 | 127]) + len(payload).to_bytes(8)
    return head + bytes(4) + payload


class Wire:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._ahead = b""
        self.writer = writer

    @classmethod
    async def connected(cls, host: str, port: int) -> "Wire":
        """With the handshake asked for."""
        wire = cls(*await asyncio.open_connection(host, port))
        wire.writer.write(_HANDSHAKE)
        return wire

    @classmethod
    async def dialled(cls, host: str, port: int) -> "Wire":
        """After the handshake."""
        wire = await cls.connected(host, port)
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        return wire

    async def frame(self) -> WireFrame:
        """The next frame; raises IncompleteReadError at the end."""
        start = self._ahead + await self.reader.readexactly(2 - len(self._ahead))
        first, second, self._ahead = start[0], start[1], b""
        assert first & 0xF0 == 0x80, "the server sends whole messages, without extensions"
        length = second
        if second >= 126:
            length = int.from_bytes(await self.reader.readexactly(2 if second == 126 else 8))
        return WireFrame(first & 0x0F, await self.reader.readexactly(length))

    async def rest(self) -> list[WireFrame]:
        """All frames until the server is gone; half a frame at the end is an error."""
        frames = []
        async with asyncio.timeout(15):
            while await self._more():
                frames.append(await self.frame())
        return frames

    async def _more(self) -> bool:
        if not self._ahead:
            self._ahead = await self.reader.read(1)
        return bool(self._ahead)

    async def end(self) -> None:
        """Vanish."""
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

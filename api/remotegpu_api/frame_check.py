"""Whether the frame path does what the server's own `send` does: tried before it is used.

The path relies on attributes of uvicorn's websocket class and of the websockets library that no
documentation promises. So a websocket without a network runs through a handshake, both ways to
send, full transports and a close, and what it writes is compared.
"""

import asyncio
import logging
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.server import ServerState

from remotegpu_api.frames import FrameWriter, frame_writer
from remotegpu_api.websocket_protocol import FrameProtocol, WebsocketProtocol
from remotegpu_core.settings import Settings

log = structlog.get_logger()

#: Lengths on both sides of each step in the header's form.
_LENGTHS: Final = (0, 1, 125, 126, 65535, 65536)

#: Seconds for all of it; nothing in it waits for anything outside.
_PATIENCE: Final = 5.0

_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
#: A client's ping without payload.
_PING: Final = b"\x89\x80\x00\x00\x00\x00"


class Differs(Exception):
    """The frame path is not what it has to be; the message says in what."""


class _Recorder(asyncio.Transport):
    """Keeps what is written, and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._written: list[bytes] = []
        self._closing = False

    def take(self) -> bytes:
        written = b"".join(self._written)
        self._written.clear()
        return written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Drive:
    """A websocket of the class, and its application's side."""

    def __init__(self, protocol_class: type[FrameProtocol]) -> None:
        self.transport = _Recorder()
        self._called: asyncio.Future[tuple[Any, Any]] = asyncio.Future()
        self._end = asyncio.Event()
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            http="httptools",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
        )
        config.load()
        self.protocol = protocol_class(config, ServerState(), {})
        # It would tell of a viewer that there is not.
        logger = logging.getLogger(__name__)
        logger.disabled = True
        self.protocol.logger = self.protocol.conn.logger = logger

    async def _application(self, scope: Any, _receive: Any, send: Any) -> None:
        self._called.set_result((scope, send))
        await self._end.wait()

    async def run(self) -> None:
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(_HANDSHAKE)
        try:
            await self._compare()
        finally:
            self._end.set()
            self.transport.close()
            tasks = tuple(self.protocol.tasks)
            self.protocol.connection_lost(None)
            await asyncio.gather(*tasks)

    async def _compare(self) -> None:
        scope, send = await self._called
        writer = frame_writer(scope)
        if writer is None:
            raise Differs("no frame path was offered to a client that offers compression")
        self._refuses(writer, "before the handshake")
        await send({"type": "websocket.accept"})
        if b"permessage-deflate" in self.transport.take():
            raise Differs("compression was agreed on")
        for length in _LENGTHS:
            await send({"type": "websocket.send", "text": "x" * length})
            expected = self.transport.take()
            if not writer.offer(b"x" * length):
                raise Differs(f"a message of {length} bytes was refused on an idle connection")
            if self.transport.take() != expected or not expected.endswith(b"x" * length):
                raise Differs(f"a message of {length} bytes is framed differently")
        self._flow_control(writer)
        self.protocol.conn.expect_continuation_frame = True
        self._refuses(writer, "within a fragmented message")
        self.protocol.conn.expect_continuation_frame = False
        self.protocol.data_received(_PING)
        if self.transport.take() != b"\x8a\x00" or not writer.offer(b"after"):
            raise Differs("a ping was not answered, or ended the frame path")
        self.transport.take()
        await send({"type": "websocket.close", "code": 1000})
        if not self.transport.take().startswith(b"\x88"):
            raise Differs("closing wrote no close frame")
        self._refuses(writer, "after a close frame")

    def _flow_control(self, writer: FrameWriter) -> None:
        self.protocol.pause_writing()
        self._refuses(writer, "while the transport is full")
        self.protocol.resume_writing()
        if not writer.offer(b"again"):
            raise Differs("a message was refused when the transport was free again")
        self.transport.take()

    def _refuses(self, writer: FrameWriter, when: str) -> None:
        if writer.offer(b"no") or self.transport.take():
            raise Differs(f"a frame was written {when}")


async def difference(protocol_class: type[FrameProtocol]) -> str | None:
    """In what the frame path differs from plain ASGI; None where it does not."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await _Drive(protocol_class).run()
    except Differs as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - what another release lacks may show as anything
        return f"{type(error).__name__}: {error}"
    return None


async def websocket_class(settings: Settings) -> type[WebsocketProtocol]:
    """What uvicorn is to serve websockets with."""
    if not settings.frame_path:
        return WebsocketProtocol
    found = await difference(FrameProtocol)
    if found is None:
        return FrameProtocol
    log.warning(
        "live.frame_path_off",
        reason=found,
        uvicorn=uvicorn.__version__,
        hint="Live events go through plain ASGI, which works and costs more processor time. "
        "Install the versions that requirements/ names to have the frame path.",
    )
    return WebsocketProtocol

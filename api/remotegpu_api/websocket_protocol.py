"""Uvicorn's websocket, where hostile peers need more than it does by itself."""

import asyncio
from asyncio.transports import BaseTransport
from typing import Final, cast

import structlog
from starlette.types import Scope
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from remotegpu_api import taking
from remotegpu_api.frames import EXTENSION, FrameWriter
from remotegpu_api.live.messages import MAX_MESSAGE
from remotegpu_api.taking import Taker, is_between_frames, whole_message
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES

log = structlog.get_logger()

#: Bytes of one message from a client, by path; other paths have no websockets.
MAX_SIZES: Final = {"/graphql": MAX_MESSAGE, "/agent": MAX_MESSAGE_BYTES}

#: Bytes that a transport holds for a reader before writers have to wait, under TLS too, where the
#: loop's own bound is eight times that.
MAX_UNSENT: Final = 64 * 1024

#: Seconds for which a peer that broke the protocol is still read, unheard. Closing over unread
#: bytes resets the connection, and the close frame that says why might be lost.
LINGER: Final = 1.0


class WebsocketProtocol(WebSocketsSansIOProtocol):
    """Messages bounded by path, and a peer that reads nothing is cut off.

    Whatever breaks the protocol costs one log line.
    """

    _cut_off: asyncio.TimerHandle | None = None
    _fragments: bytearray | None = None
    _taker: Taker | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # Before the first byte of a frame is looked at.
        if self.response.status_code == 101:
            self.conn.max_message_size = MAX_SIZES.get(self.scope["path"], MAX_MESSAGE)
            scope = cast("Scope", self.scope)
            scope["extensions"][taking.EXTENSION] = self._take_by
            if self.scope["path"] == "/agent":
                # Its heartbeats, and what they are answered, say both ways that the other lives.
                self.ping_interval = None

    def _take_by(self, taker: Taker) -> None:
        self._taker = taker

    def data_received(self, data: bytes) -> None:
        if self._taker is None:
            super().data_received(data)
            return
        start = 0
        if is_between_frames(self.conn) and not self.conn.extensions:
            while (found := whole_message(data, start)) and self._is_taken(found.message):
                start = found.end
        if start < len(data):
            super().data_received(data[start:] if start else data)

    def handle_bytes(self, event: Frame) -> None:
        if not (event.fin and self._is_taken(bytes(event.data))):
            super().handle_bytes(event)

    def _is_taken(self, message: bytes) -> bool:
        if (
            self._taker is None
            or self.conn.state is not OPEN
            or self.close_sent
            or not self.queue.empty()
            or not self.writable.is_set()
        ):
            return False
        answers = self._taker(message)
        if answers is None:
            return False
        if answers:
            for answer in answers:
                self.conn.send_binary(answer)
            self.transport.write(b"".join(self.conn.data_to_send()))
        return True

    def handle_ping(self) -> None:
        # After a breach in the same breath, the answer went with the close frame, the last bytes.
        if not self.conn.eof_sent:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        # One buffer that grows: a list would hold each of many small fragments, and empty ones
        # count towards no limit.
        if self._fragments is None:
            self._fragments = bytearray(self.frames.pop())
        self._fragments += event.data
        if event.fin:
            self.frames = [bytes(self._fragments)]
            self._fragments = None
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                # Uvicorn would log a traceback for what any stranger can send.
                self.frames = []
                self.conn.fail(1007, "Text is UTF-8.")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Tell the application and the peer, once, that the protocol was broken."""
        if self.close_sent:
            # What comes after the close frame is dropped unread.
            return
        if self.conn.close_sent is None:
            # Frames before there is a websocket to close.
            self.transport.close()
            return
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        log.info(
            "websocket.refused",
            code=int(code),
            reason=reason,
            source=self.client[0] if self.client else None,
        )
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.frames, self._fragments = [], None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.close_timer = self.loop.call_later(LINGER, self.transport.close)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # Closing waits until everything was read; one who never does would keep it all for good.
        if not self.disconnected:
            self._cut_off = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
        super().connection_lost(exc)


class FrameProtocol(WebsocketProtocol):
    """Offers the frame path besides. `frame_check` says whether it can."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # An extension that was agreed on, compression above all, would have to see every frame.
        if self.response.status_code == 101 and not self.conn.extensions:
            scope = cast("Scope", self.scope)
            scope["extensions"][EXTENSION] = FrameWriter(self)

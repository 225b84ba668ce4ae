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
from remotegpu_api.frames import EXTENSION, WHOLE_BINARY, FrameWriter, frame
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
    #: Whether messages may be taken past the library: it waits for a frame, no extension would see
    #: the frames first, and the application has read what came before. Until it is given something.
    _in_order = False
    _may_write = True

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
        start = 0
        # Nearly all that agents say passes here, from memory that was not looked at for a second:
        # the less is looked at, the better.
        if self._taker is not None and (self._in_order or self._comes_into_order()):
            while (
                not self.close_sent
                and self._may_write
                and (found := whole_message(data, start)) is not None
                and self._take(self._taker, found[0])
            ):
                start = found[1]
        if start < len(data):
            self._in_order = False
            super().data_received(data[start:] if start else data)

    def _comes_into_order(self) -> bool:
        self._in_order = (
            self.conn.state is OPEN
            and is_between_frames(self.conn)
            and not self.conn.extensions
            and self.queue.empty()
        )
        return self._in_order

    def pause_writing(self) -> None:
        super().pause_writing()
        self._may_write = False

    def resume_writing(self) -> None:
        super().resume_writing()
        self._may_write = True

    def handle_bytes(self, event: Frame) -> None:
        if not (
            event.fin
            and self._taker is not None
            and self.conn.state is OPEN
            and not self.close_sent
            and self.queue.empty()
            and self._may_write
            and self._take(self._taker, bytes(event.data))
        ):
            super().handle_bytes(event)

    def _take(self, taker: Taker, message: bytes) -> bool:
        answers = taker(message)
        if answers is None:
            return False
        if answers:
            # Nothing is sent in fragments here, so that a frame may go between any two.
            frames = [frame(WHOLE_BINARY, answer) for answer in answers]
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
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

"""Uvicorn's websocket, where hostile peers need more than it does by itself."""

import asyncio
from asyncio.transports import BaseTransport
from typing import Final, cast

import structlog
from starlette.types import Scope
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from remotegpu_api import departure, taking
from remotegpu_api.frames import EXTENSION, WHOLE_BINARY, FrameWriter, frame
from remotegpu_api.live.messages import MAX_MESSAGE, CloseCode
from remotegpu_api.taking import Taker, is_between_frames, whole_message
from remotegpu_protocol import close_codes
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES

log = structlog.get_logger()

#: Bytes of one message from a client, by path; other paths have no websockets.
MAX_SIZES: Final = {"/graphql": MAX_MESSAGE, "/agent": MAX_MESSAGE_BYTES}

#: The name in `scope["extensions"]` of an event that is set when the peer takes its leave of a
#: websocket that was closed from here: it was there.
LEAVE_TAKEN: Final = "remotegpu.leave_taken"

#: The name of a function that says whether the peer has ended the connection, or its half of it.
PEER_LEFT: Final = "remotegpu.peer_left"

#: Code and reason of the close frame when the server ends, by path. Clients of the graph know 1012
#: (service restart); agents have a code of their protocol.
FAREWELLS: Final = {
    "/graphql": (1012, "The server ends: connect again."),
    "/agent": (int(close_codes.CloseCode.GOING_AWAY), "The control plane ends: connect again."),
}

#: Bytes that a transport holds for a reader before writers have to wait, under TLS too, where the
#: loop's own bound is eight times that.
MAX_UNSENT: Final = 64 * 1024

#: Seconds for which a peer that broke the protocol is still read, unheard. Closing over unread
#: bytes resets the connection, and the close frame that says why might be lost.
LINGER: Final = 1.0

#: Seconds that a close frame of ours has to be answered, and those in which a reader has to take
#: it that has left so much unread that the transport still holds it. Then the connection is cut.
CLOSE_TIMEOUT: Final = 10.0
SLOW_CLOSE_TIMEOUT: Final = 60.0


class WebsocketProtocol(WebSocketsSansIOProtocol):
    """Messages bounded by path, and a peer that reads nothing is told so, and cut off in the end.

    Whatever breaks the protocol costs one log line.
    """

    _gone: asyncio.Event | None = None
    #: The answer to the newest ping that came while nothing could be sent.
    _late_pong: bytes | None = None
    _fragments: bytearray | None = None
    _taker: Taker | None = None
    #: Whether messages may be taken past the library: it waits for a frame, no extension would see
    #: the frames first, and the application has read what came before. Until it is given something.
    _in_order = False
    _may_write = True
    _leave_taken: asyncio.Event | None = None
    _left = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT)
        self.close_timeout = CLOSE_TIMEOUT

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # Before the first byte of a frame is looked at.
        if self.response.status_code == 101:
            self.conn.max_message_size = MAX_SIZES.get(self.scope["path"], MAX_MESSAGE)
            scope = cast("Scope", self.scope)
            scope["extensions"][taking.EXTENSION] = self._take_by
            scope["extensions"][departure.EXTENSION] = self._departed
            scope["extensions"][PEER_LEFT] = self._peer_left
            scope["extensions"][LEAVE_TAKEN] = self._leave_taken = asyncio.Event()
            if self.scope["path"] == "/agent":
                # Its heartbeats, and what they are answered, say both ways that the other lives.
                self.ping_interval = None

    def _peer_left(self) -> bool:
        return self._left or self.disconnected or self.transport.is_closing()

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
        if self._late_pong is not None and not self.close_sent:
            self.transport.write(self._late_pong)
        self._late_pong = None

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

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent and self.conn.state is OPEN:
            code, reason = FAREWELLS[self.scope["path"]]
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        super().shutdown()

    def handle_ping(self) -> None:
        # After a breach in the same breath, the answer went with the close frame, the last bytes.
        if self.conn.eof_sent:
            return
        if self._may_write:
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            # Who pings and reads nothing must not fill the memory with answers; the newest is
            # enough (RFC 6455, 5.5.3).
            self._late_pong = pongs[-1]

    def keepalive_timeout(self) -> None:
        """No answer to a ping: of a reader that has stopped, or of one that is not there any more."""
        self.pong_timer = None
        self.pending_ping_payload = None
        if self._may_write:
            # Not uvicorn's 1011, after which some clients never come back.
            self._close(CloseCode.TRY_AGAIN_LATER, "A ping was not answered.", within=LINGER)
        else:
            self._close(CloseCode.TOO_MANY_REQUESTS, "Too slow: read faster or ask for less.")

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close" and self.handshake_complete:
            if self.disconnected:
                raise ClientDisconnected
            self._close(message.get("code", 1000), message.get("reason") or "")
        else:
            await super().send(message)

    def _close(self, code: int, reason: str, *, within: float | None = None) -> None:
        """Send the close frame now, behind what still waits, and see to it that the rest ends.

        Uvicorn waits until the transport is free, and for a reader that has stopped that is never.
        """
        if self.close_sent:
            return
        self.close_sent = True
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        # Not after a close frame of the peer, which was answered.
        if not self.transport.is_closing() and self.conn.state is OPEN:
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            if self.read_paused:
                # The answer may stand behind messages, which have no reader any more.
                self.read_paused = False
                self.transport.resume_reading()
        self._end_within(self.close_timeout if within is None else within, SLOW_CLOSE_TIMEOUT)

    def handle_close(self, event: Frame) -> None:
        if self.close_sent and self._leave_taken is not None:
            self._leave_taken.set()
        self._left = True
        super().handle_close(event)
        self._see_to_the_end()

    def eof_received(self) -> None:
        self._left = True
        self._see_to_the_end()

    def _see_to_the_end(self) -> None:
        """A transport closes once everything was read; a peer that does not is cut off."""
        if self.close_timer is None and not self.disconnected:
            self._end_within(self.close_timeout)

    def _end_within(self, timeout: float, slow: float = 0.0) -> None:
        """Close the connection after `timeout`, or cut it after `slow` where something is unsent."""
        self.close_timer = self.loop.call_later(timeout, self._end, max(0.0, slow - timeout))

    def _end(self, more: float) -> None:
        if not self.transport.get_write_buffer_size():
            # What the kernel holds it goes on sending.
            self.transport.close()
        elif more:
            self._end_within(more)
        else:
            self.transport.abort()

    async def _departed(self) -> None:
        if self.disconnected:
            return
        self._see_to_the_end()
        self._gone = self._gone or asyncio.Event()
        await self._gone.wait()

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
        self._end_within(LINGER, self.close_timeout)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._see_to_the_end()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._gone is not None:
            self._gone.set()


class FrameProtocol(WebsocketProtocol):
    """Offers the frame path besides. `frame_check` says whether it can."""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # An extension that was agreed on, compression above all, would have to see every frame.
        if self.response.status_code == 101 and not self.conn.extensions:
            scope = cast("Scope", self.scope)
            scope["extensions"][EXTENSION] = FrameWriter(self)

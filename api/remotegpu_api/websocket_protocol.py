"""Uvicorn's websocket, where hostile peers need more than it does by itself."""

import asyncio

import structlog
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = structlog.get_logger()


class WebsocketProtocol(WebSocketsSansIOProtocol):
    """Text that is none costs one log line, and a peer that reads nothing is cut off."""

    _cut_off: asyncio.TimerHandle | None = None

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                # Uvicorn would log a traceback for what any stranger can send.
                log.info("websocket.not_utf8", source=self.client[0] if self.client else None)
                self.frames = []
                self.conn.fail(1007, "Text is UTF-8.")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    async def run_asgi(self) -> None:
        await super().run_asgi()
        # Closing waits until everything was read; one who never does would keep it all for good.
        if not self.disconnected:
            self._cut_off = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
        super().connection_lost(exc)

"""Uvicorn's HTTP, where hostile peers need more than it does by itself."""

import asyncio
from http import HTTPStatus
from typing import Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = structlog.get_logger()

#: Bytes of a request's line and headers; cookies and tokens of several kinds fit many times.
MAX_HEAD: Final = 32 * 1024

#: Seconds in which they must have come, from the opening of the connection or the first byte of a
#: further request on it.
HEAD_TIMEOUT: Final = 10.0

_TOO_LARGE: Final = f"A request's line and headers have at most {MAX_HEAD} bytes."
_TOO_SLOW: Final = f"A request's line and headers come within {HEAD_TIMEOUT:g} seconds."


class HttpProtocol(HttpToolsProtocol):
    """Requests whose headers end, in size and in time. Bodies are bounded where they are read."""

    _head_bytes = 0
    _is_in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        # Bytes that follow a head in the same breath count for nothing: the next head begins anew.
        self._head_bytes = self._head_bytes + len(data) if self._is_in_head else 0
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = max(self._head_bytes, 1)
        self._await_head()

    def on_headers_complete(self) -> None:
        self._forget_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._is_in_head = True
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._head_is_late)

    def _forget_head(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW)
        else:
            # Nobody asked anything, so nobody is told.
            self.transport.close()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.transport.is_closing():
            return
        self._forget_head()
        log.info(
            "http.refused",
            status=status.value,
            reason=reason,
            source=self.client[0] if self.client else None,
        )
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(reason)}\r\nconnection: close\r\n\r\n"
        )
        # An earlier request on the connection may still be answered; then this would get between.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.write((head + reason).encode("ascii"))
        self.transport.close()

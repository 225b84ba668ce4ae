"""Uvicorn's HTTP, where hostile peers need more than it does by itself."""

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = structlog.get_logger()

#: Bytes of a request's line and headers; cookies and tokens of several kinds fit many times.
MAX_HEAD: Final = 32 * 1024

#: Seconds in which they must have come, from the opening of the connection or the first byte of a
#: further request on it.
HEAD_TIMEOUT: Final = 10.0

#: Seconds in which the rest of a request must come that was answered before its end.
REST_TIMEOUT: Final = 10.0

#: Seconds for which a peer that was refused is still read, unheard.
LINGER: Final = 1.0

_TOO_LARGE: Final = f"A request's line and headers have at most {MAX_HEAD} bytes."
_TOO_SLOW: Final = f"A request's line and headers come within {HEAD_TIMEOUT:g} seconds."
_NO_HOST: Final = "A request of HTTP/1.1 has one header Host, with the name of the server."

#: What a host and a port can hold (RFC 3986, section 3.2.2).
_HOST: Final = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)


class HttpProtocol(HttpToolsProtocol):
    """Requests whose headers end, in size and in time. Bodies are bounded where they are read."""

    #: Bytes that came while the head was not complete, and those of its parts that are read: the
    #: first bounds a line without an end, the second is exact.
    _head_bytes = 0
    _head_size = 0
    _is_in_head = True
    _is_in_message = False
    _is_refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _rest_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        # Bytes that follow a head in the same breath count for nothing: the next head begins anew.
        self._head_bytes = self._head_bytes + len(data) if self._is_in_head else 0
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)

    def on_message_begin(self) -> None:
        if self._is_refused:
            return
        super().on_message_begin()
        self._is_in_message = True
        self._head_bytes = max(self._head_bytes, 1)
        self._head_size = 0
        self._await_head()

    def on_url(self, url: bytes) -> None:
        if not self._is_refused and self._fits(url):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_refused and self._fits(name, value):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        if not self._has_host():
            self._refuse(HTTPStatus.BAD_REQUEST, _NO_HOST)
            return
        self._forget_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_refused:
            return
        self._is_in_message = False
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A further request on the connection may have begun, and waits for its turn.
        if self._is_in_message and self.cycle.response_complete and not self.transport.is_closing():
            # What still comes is dropped unread, but not for ever.
            self._rest_timer = self.loop.call_later(REST_TIMEOUT, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        # The parser fails too on what follows a request that was refused, after the end was sent.
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def handle_websocket_upgrade(self) -> None:
        if not self._is_refused:
            super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        super().connection_lost(exc)

    def _fits(self, *parts: bytes) -> bool:
        """Whether a further line of the head fits, of which the parser leaves out four bytes."""
        self._head_size += sum(map(len, parts)) + 4
        if self._head_size > MAX_HEAD:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        return not self._is_refused

    def _has_host(self) -> bool:
        hosts = [value for name, value in self.headers if name == b"host"]
        if not hosts:
            # mypy and pyright disagree on whether uvicorn declares that it may be None.
            parser: Any = self.parser
            return bool(parser.get_http_version() == "1.0")
        return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None

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
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
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
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            # An earlier request on the connection is still being answered: this would get between.
            self.transport.close()
            return
        self.transport.write((head + reason).encode("ascii"))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # Closing over unread bytes resets the connection, and the reason might be lost.
        self.loop.call_later(LINGER, self.transport.close)

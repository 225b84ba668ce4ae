"""How boto3's requests go out: to no refused address, and with answers that end."""

import asyncio
import socket
import ssl
import time
from typing import Any, Final

import urllib3
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from remotegpu_core.dialing import connect_socket
from remotegpu_core.s3.addresses import is_refused

#: Bytes of one answer: a page of a thousand keys has less than a quarter of it.
MAX_ANSWER: Final = 8 * 2**20
_CHUNK: Final = 65_536


class RefusedAddress(BotoConnectionError):  # type: ignore[misc]  # boto3 has no types
    fmt = "The endpoint has an address to which no request is sent: {error}"


class TooMuch(BotoConnectionError):  # type: ignore[misc]  # boto3 has no types
    fmt = "The endpoint's answer has no end: {error}"


class _Raced(HTTPConnection):
    """Connects to the first address that answers, where urllib3 waits for each in turn."""

    def _new_conn(self) -> socket.socket:
        try:
            # In a thread that has no loop, see `measure`.
            connection = asyncio.run(self._connect())
        except TimeoutError:
            raise ConnectTimeoutError(self, f"{self.host} took no connection in time.") from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from None
        except OSError as error:
            raise NewConnectionError(self, str(error)) from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self.timeout)
        return connection

    async def _connect(self) -> socket.socket:
        async with asyncio.timeout(self.timeout):
            return await connect_socket(self._dns_host.strip("[]"), self.port)


class _Checked(_Raced):
    """Looks at whom a connection reached before anything is said to them.

    Not at what the name resolves to: that may be another address the next time.
    """

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        peer = connection.getpeername()[0]
        if is_refused(peer):
            connection.close()
            raise RefusedAddress(error=peer)
        return connection


def _pools(connecting: type[_Raced]) -> dict[str, type]:
    """Pools of connections that connect in this way, by scheme."""
    http = type("_HTTP", (connecting, AWSHTTPConnection), {})
    https = type("_HTTPS", (connecting, AWSHTTPSConnection), {})
    return {
        "http": type("_HTTPPool", (AWSHTTPConnectionPool,), {"ConnectionCls": http}),
        "https": type("_HTTPSPool", (AWSHTTPSConnectionPool,), {"ConnectionCls": https}),
    }


_CHECKED: Final = _pools(_Checked)
_UNCHECKED: Final = _pools(_Raced)


class _Session(URLLib3Session):  # type: ignore[misc]  # boto3 has no types
    """Trusts whom `context` trusts, where botocore brings a list of authorities of its own."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def _get_ssl_context(self) -> ssl.SSLContext:
        return self._context

    def _setup_ssl_cert(self, conn: Any, url: str, verify: object) -> None:
        conn.cert_reqs = "CERT_REQUIRED"
        conn.ca_certs = None


class Transport:
    """A handler of `before-send`: what it returns is the answer.

    `timeout` in seconds for a connection and for a silence, `deadline` on the monotonic clock for
    everything.
    """

    def __init__(
        self, context: ssl.SSLContext, *, timeout: float, deadline: float, guarded: bool = True
    ) -> None:
        self._deadline = deadline
        # No proxy: whom it reaches would be its own choice.
        self._session = _Session(context, timeout=(timeout, timeout), proxies={})
        pools = _CHECKED if guarded else _UNCHECKED
        self._session._manager.pool_classes_by_scheme = pools  # noqa: SLF001 - botocore's one way

    def __call__(self, request: Any, **_: Any) -> Any:
        request.stream_output = True
        try:
            response = self._session.send(request)
        except HTTPClientError as error:
            # What it does not know it wraps.
            inner = error.kwargs.get("error")
            raise inner if isinstance(inner, RefusedAddress) else error from None
        body = bytearray()
        try:
            while chunk := response.raw.read1(_CHUNK):
                body += chunk
                if len(body) > MAX_ANSWER or time.monotonic() > self._deadline:
                    raise TooMuch(error=f"{len(body)} bytes and no end")
        except urllib3.exceptions.HTTPError as error:
            raise BotoConnectionError(error=error) from None
        finally:
            response.raw.close()
        response._content = bytes(body)  # noqa: SLF001 - what its `content` would read without an end
        return response

    def close(self) -> None:
        self._session.close()

"""How boto3's requests go out: to no refused address, and with answers that end."""

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

from remotegpu_core.s3.addresses import is_refused

#: Bytes of one answer: a page of a thousand keys has less than a quarter of it.
MAX_ANSWER: Final = 8 * 2**20
_CHUNK: Final = 65_536


class RefusedAddress(BotoConnectionError):  # type: ignore[misc]  # boto3 has no types
    fmt = "The endpoint has an address to which no request is sent: {error}"


class TooMuch(BotoConnectionError):  # type: ignore[misc]  # boto3 has no types
    fmt = "The endpoint's answer has no end: {error}"


class _Checked:
    """Looks at whom a connection reached before anything is said to them.

    Not at what the name resolves to: that may be another address the next time.
    """

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]  # of urllib3's connections
        peer = connection.getpeername()[0]
        if is_refused(peer):
            connection.close()
            raise RefusedAddress(error=peer)
        return connection


class _HTTPConnection(_Checked, AWSHTTPConnection):  # type: ignore[misc]  # boto3 has no types
    pass


class _HTTPSConnection(_Checked, AWSHTTPSConnection):  # type: ignore[misc]  # boto3 has no types
    pass


class _HTTPPool(AWSHTTPConnectionPool):  # type: ignore[misc]  # boto3 has no types
    ConnectionCls = _HTTPConnection


class _HTTPSPool(AWSHTTPSConnectionPool):  # type: ignore[misc]  # boto3 has no types
    ConnectionCls = _HTTPSConnection


class Transport:
    """A handler of `before-send`: what it returns is the answer.

    `timeout` in seconds for a connection and for a silence, `deadline` on the monotonic clock for
    everything.
    """

    def __init__(self, *, timeout: float, deadline: float, guarded: bool = True) -> None:
        self._deadline = deadline
        # No proxy: whom it reaches would be its own choice.
        self._session = URLLib3Session(timeout=(timeout, timeout), proxies={})
        if guarded:
            self._session._manager.pool_classes_by_scheme = {  # noqa: SLF001 - botocore's one way
                "http": _HTTPPool,
                "https": _HTTPSPool,
            }

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

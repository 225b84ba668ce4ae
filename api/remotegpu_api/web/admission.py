"""Requests that are let in: so many at a time, each with a body that ends, and soon."""

import asyncio
from contextlib import AbstractContextManager
from typing import Final

from starlette.requests import ClientDisconnect, Request

from remotegpu_api.callers import source_address
from remotegpu_api.request import BadRequest
from remotegpu_api.state import state_of
from remotegpu_core.errors import RateLimited, TryLater
from remotegpu_protocol.grammar import shorten

#: Seconds in which a body must have come: while one is on its way it takes a place.
BODY_TIMEOUT: Final = 10.0


def place_of(request: Request) -> AbstractContextManager[None]:
    """A place among the requests that are worked on; entering raises Overloaded."""
    state = state_of(request)
    settings = state.plane.settings
    return state.requests.take(
        source_address(request, settings),
        total=settings.max_requests,
        each=settings.max_requests_per_address,
    )


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes.

    Raises:
        BadRequest: it is longer, compressed, takes too long, or breaks off.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        raise BadRequest(
            415,
            f"Bodies are taken as they are, got Content-Encoding: {shorten(encoding)}. "
            "Send it uncompressed.",
            headers={"Accept-Encoding": "identity"},
        )
    too_long = BadRequest(413, f"A request has at most {limit} bytes.", "LIMIT_EXCEEDED")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise BadRequest(
            408, f"A request's body comes within {BODY_TIMEOUT:.0f} seconds."
        ) from None
    except ClientDisconnect:
        # Nobody reads the answer, and it is nothing to log.
        raise BadRequest(400, "The request's body breaks off.") from None
    return bytes(body)


def status_of(error: TryLater) -> int:
    return 429 if isinstance(error, RateLimited) else 503

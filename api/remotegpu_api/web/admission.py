"""Requests that are let in: so many at a time, each with a body that ends, and soon."""

import asyncio
from contextlib import AbstractContextManager
from typing import Final

from starlette.requests import ClientDisconnect, Request

from remotegpu_api.places import share_of_strangers
from remotegpu_api.request import BadRequest
from remotegpu_api.state import state_of
from remotegpu_core.actor import Actor
from remotegpu_core.errors import RateLimited, TryLater
from remotegpu_core.networks import caller_network
from remotegpu_protocol.grammar import shorten

#: Seconds in which a body must have come.
BODY_TIMEOUT: Final = 10.0
#: Bodies on their way at a time: in all, and of one user or, without sign-in, one address. Signed-in
#: callers and others have a number each. One that gives way was awaited longest.
MAX_BODIES: Final = 512
MAX_BODIES_EACH: Final = 64


def place_of(request: Request, caller: Actor) -> AbstractContextManager[None]:
    """A place among the requests that are worked on; entering raises Overloaded.

    It is taken when the whole request is there, so nobody holds one by sending slowly.
    """
    state = state_of(request)
    settings = state.plane.settings
    total, each = settings.max_requests, settings.max_requests_per_address
    users, strangers = state.requests, state.anonymous_requests
    if caller.is_signed_in:
        return users.take(caller.user_id, total=total - strangers.taken, each=each)
    return strangers.take(
        caller_network(caller.source_address),
        total=min(share_of_strangers(total), total - users.taken),
        each=each,
    )


async def read_body(request: Request, limit: int, caller: Actor) -> bytes:
    """The body, of at most `limit` bytes.

    Raises:
        BadRequest: it is longer, compressed, takes too long, or breaks off.
    """
    _check_head(request, limit)
    state = state_of(request)
    bodies = state.bodies if caller.is_signed_in else state.anonymous_bodies
    holder = caller.user_id or caller_network(caller.source_address)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT) as timeout:
            now = asyncio.get_running_loop().time
            with bodies.awaiting(
                holder,
                lambda: timeout.reschedule(now()),
                total=MAX_BODIES,
                each=MAX_BODIES_EACH,
            ):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise _too_long(limit)
    except TimeoutError:
        raise BadRequest(
            408,
            f"A request's body comes within {BODY_TIMEOUT:.0f} seconds, and of {MAX_BODIES_EACH} "
            "at a time the slowest gives way.",
        ) from None
    except ClientDisconnect:
        # Nobody reads the answer, and it is nothing to log.
        raise BadRequest(400, "The request's body breaks off.") from None
    return bytes(body)


def _check_head(request: Request, limit: int) -> None:
    """Refuse a body before it comes, where the head says enough."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        raise BadRequest(
            415,
            f"Bodies are taken as they are, got Content-Encoding: {shorten(encoding)}. "
            "Send it uncompressed.",
            headers={"Accept-Encoding": "identity"},
        )
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_long(limit)


def _too_long(limit: int) -> BadRequest:
    return BadRequest(413, f"A request has at most {limit} bytes.", "LIMIT_EXCEEDED")


def status_of(error: TryLater) -> int:
    return 429 if isinstance(error, RateLimited) else 503

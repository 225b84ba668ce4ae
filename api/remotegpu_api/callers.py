"""Who sent a request: its credential, its address, and whether a browser sent it from here."""

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from remotegpu_api.forwarding import caller_behind
from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import Unauthenticated
from remotegpu_core.networks import UNKNOWN, contains
from remotegpu_core.services.sign_in import authenticate
from remotegpu_core.settings import Settings
from remotegpu_protocol.addresses import parse_address
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.origin import normalise_origin

COOKIE: Final = "remotegpu_session"


def source_address(connection: HTTPConnection, settings: Settings) -> str:
    """The caller's address in its one spelling, or UNKNOWN.

    What proxies say of it counts only when the connection comes from a trusted one.
    """
    peer = parse_address(connection.client.host) if connection.client else None
    if peer is not None and contains(settings.trusted_proxies, peer):
        peer = caller_behind(peer, connection.headers, settings.trusted_proxies)
    return UNKNOWN if peer is None else str(peer)


def bearer_token(connection: HTTPConnection) -> str | None:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


async def actor_of(connection: HTTPConnection, settings: Settings) -> Actor:
    """The caller by its bearer token, else by its cookie, else nobody.

    Raises:
        Unauthenticated: a bearer token that is no good. A cookie that has ended is no error: a
            browser sends it without anybody's wish, to the sign-in page too.
    """
    address = source_address(connection, settings)
    token = bearer_token(connection)
    if token is not None:
        return await authenticate(token, source_address=address)
    cookie = connection.cookies.get(COOKIE)
    if cookie is not None:
        try:
            return await authenticate(cookie, source_address=address)
        except Unauthenticated:
            pass
    return anonymous(address)


def comes_from_here(connection: HTTPConnection, settings: Settings) -> bool:
    """Whether the page that sent the request, if a browser did, is one of ours.

    The public address counts, and the very host that the browser has the cookie for.
    """
    given = connection.headers.get("origin")
    if given is None:
        return True
    try:
        origin = normalise_origin(given)
    except InvalidValue:
        return False
    if origin in settings.agent_origins:
        return True
    scheme = {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme)
    host = connection.headers.get("host", "")
    try:
        return origin == normalise_origin(f"{scheme}://{host}") and bool(urlsplit(given).scheme)
    except InvalidValue:
        return False

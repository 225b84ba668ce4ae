"""Which web page sent a request, and whether the browser's cookie counts for it."""

from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from remotegpu_core.page_origin import page_origin
from remotegpu_core.settings import Settings
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.origin import normalise_origin

#: A request with one of these (not empty) was either sent by a page of its own origin or asked for
#: by a preflight, for no browser lets a page add headers to a request to another origin unasked.
PREFLIGHT_HEADERS: Final = ("graphql-require-preflight", "apollo-require-preflight")


class Sender(Enum):
    """Who a request's header Origin says sent it."""

    #: A page of this control plane, or a program, which sends no Origin.
    OURS = auto()
    #: A page of an origin that the operator allowed: it may come with a token, never by the cookie.
    ALLOWED = auto()
    FOREIGN = auto()


def sender_of(connection: HTTPConnection, settings: Settings) -> Sender:
    given = connection.headers.get("origin")
    if given is None or _is_ours(given, connection, settings):
        return Sender.OURS
    try:
        allowed = page_origin(given) in settings.allowed_origins
    except InvalidValue:
        allowed = False
    return Sender.ALLOWED if allowed else Sender.FOREIGN


def comes_from_here(connection: HTTPConnection, settings: Settings) -> bool:
    """Whether the page that sent the request, if a browser did, is one of ours."""
    return sender_of(connection, settings) is Sender.OURS


def is_proved_same_origin(connection: HTTPConnection) -> bool:
    """Whether a GET, which any page may make a browser send, was sent by a page of its own origin.

    Browsers leave Origin out of most GETs, so its absence proves nothing.
    """
    headers = connection.headers
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return "origin" in headers or any(headers.get(name) for name in PREFLIGHT_HEADERS)


def _is_ours(given: str, connection: HTTPConnection, settings: Settings) -> bool:
    """The public address counts, and the very host that the browser has the cookie for."""
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

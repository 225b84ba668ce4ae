"""Who sent a request: its credential and its address."""

from starlette.requests import HTTPConnection

from remotegpu_api.cookies import SESSION, read_cookie
from remotegpu_api.forwarding import caller_behind
from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import Unauthenticated
from remotegpu_core.networks import UNKNOWN, contains
from remotegpu_core.secret import kind_of
from remotegpu_core.services.sign_in import authenticate
from remotegpu_core.settings import Settings
from remotegpu_protocol.addresses import parse_address


def source_address(connection: HTTPConnection, settings: Settings) -> str:
    """The caller's address in its one spelling, or UNKNOWN.

    What proxies say of it counts only when the connection comes from a trusted one.
    """
    peer = parse_address(connection.client.host) if connection.client else None
    if peer is not None and contains(settings.trusted_proxies, peer):
        peer = caller_behind(peer, connection.headers, settings.trusted_proxies)
    return UNKNOWN if peer is None else str(peer)


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token in the header Authorization, None where there is none that is understood.

    Raises:
        Unauthenticated: two headers came that differ.
    """
    given = set(connection.headers.getlist("authorization"))
    if len(given) > 1:
        raise Unauthenticated("Several headers Authorization came that differ: send one token.")
    return read_authorization(given.pop()) if given else None


def read_authorization(value: str) -> str | None:
    """The token of `Bearer TOKEN`, or of another spelling whose last word has the form of ours."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    bare = rest.strip() or scheme
    return bare if kind_of(bare) is not None else None


async def actor_of(
    connection: HTTPConnection, settings: Settings, *, cookie_counts: bool = True
) -> Actor:
    """The caller by its bearer token, else by its cookie, else nobody.

    Raises:
        Unauthenticated: a bearer token that is no good. A cookie that has ended is no error: a
            browser sends it without anybody's wish, to the sign-in page too.
    """
    address = source_address(connection, settings)
    token = bearer_token(connection)
    if token is not None:
        return await authenticate(token, source_address=address)
    cookie = read_cookie(connection, SESSION, settings)
    if cookie is not None and cookie_counts:
        try:
            return await authenticate(cookie, source_address=address)
        except Unauthenticated:
            pass
    return anonymous(address)


def ignored_credentials(
    connection: HTTPConnection, settings: Settings, *, cookie_counts: bool = True
) -> list[str]:
    """What a caller without sign-in sent in vain, so that the caller need not guess. Never its value."""
    told: list[str] = []
    if "authorization" in connection.headers and bearer_token(connection) is None:
        told.append("The header Authorization: expected 'Bearer TOKEN'.")
    if read_cookie(connection, SESSION, settings) is not None and not cookie_counts:
        told.append(
            "The session cookie: pages of other origins send 'Authorization: Bearer TOKEN', and a "
            "GET that no browser marks with 'Sec-Fetch-Site: same-origin' has the header "
            "'GraphQL-Require-Preflight: 1'."
        )
    return told

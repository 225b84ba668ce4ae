"""Who may read metrics: the bearer of the token, and callers from the allowed networks."""

import hmac
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from remotegpu_api.callers import bearer_token, source_address
from remotegpu_api.forwarding import is_forwarded
from remotegpu_core.errors import Unauthenticated
from remotegpu_core.networks import contains
from remotegpu_core.settings import Settings
from remotegpu_protocol.addresses import IPAddress, parse_address

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::\d*)?")


def refuse(request: Request, settings: Settings) -> Response | None:
    """Why this caller may not read metrics, as an answer; None for one who may.

    The token, or an address in the allowed networks; without either setting, only this host.
    """
    token = settings.metrics_token
    try:
        given = bearer_token(request)
    except Unauthenticated:
        # Two of them, so none.
        given = None
    if token is not None and given is not None:
        expected = token.get_secret_value().encode()
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            return None
    address = _address(request, settings)
    is_here = address is not None and address.is_loopback and not is_forwarded(request.headers)
    is_allowed = address is not None and contains(settings.metrics_allow, address)
    if (is_here and not settings.metrics_allow and token is None) or is_allowed:
        return None if not is_here or _names_this_host(request) else _rebound()
    if token is not None:
        return PlainTextResponse(
            "Metrics are read with the header 'Authorization: Bearer TOKEN', TOKEN being "
            "REMOTEGPU_METRICS_TOKEN of this server.\n",
            401,
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    shown = address or "a caller of unknown address"
    if settings.metrics_allow:
        return PlainTextResponse(
            f"Metrics are for the networks in REMOTEGPU_METRICS_ALLOW, and {shown} is in none of "
            "them.\n",
            403,
        )
    if is_forwarded(request.headers):
        shown = "what a proxy passes on"
    return PlainTextResponse(
        f"Metrics are for this host alone, and not for {shown}, until REMOTEGPU_METRICS_TOKEN or "
        "REMOTEGPU_METRICS_ALLOW is set.\n",
        403,
    )


def _names_this_host(request: Request) -> bool:
    """Whether the Host header is a name of loopback.

    A web page of any site can have its name resolve to 127.0.0.1 (DNS rebinding), and would read
    metrics through the browser of a user of this host.
    """
    found = _HOST.fullmatch(request.headers.get("host", ""))
    if found is None:
        return False
    host = found[1].strip("[]")
    address = parse_address(host)
    # No browser leaves the header out.
    return host.lower() in {"localhost", ""} or (address is not None and address.is_loopback)


def _rebound() -> Response:
    return PlainTextResponse(
        "On this host, metrics are read at localhost or 127.0.0.1: another name may be a web "
        "page's. With REMOTEGPU_METRICS_TOKEN any name will do.\n",
        403,
    )


def _address(request: Request, settings: Settings) -> IPAddress | None:
    peer = parse_address(request.client.host) if request.client else None
    if peer is None:
        return None
    if not contains(settings.trusted_proxies, peer) and is_forwarded(request.headers):
        # An unknown proxy stands between, and its address does not tell who asks.
        return None
    return parse_address(source_address(request, settings))

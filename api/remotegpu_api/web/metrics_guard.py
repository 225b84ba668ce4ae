"""Who may read metrics: the bearer of the token, and callers from the allowed networks."""

import hmac
import ipaddress

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from remotegpu_api.callers import bearer_token, source_address
from remotegpu_core.settings import Settings


def refuse(request: Request, settings: Settings) -> Response | None:
    """Why this caller may not read metrics, as an answer; None for one who may.

    The token, or an address in the allowed networks; without either setting, only this host.
    """
    token = settings.metrics_token
    given = bearer_token(request)
    if token is not None and given is not None:
        expected = token.get_secret_value().encode()
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            return None
    address = _address(request, settings)
    if address is not None and any(address in network for network in settings.metrics_allow):
        return None
    if token is not None:
        return PlainTextResponse(
            "Metrics are read with the header 'Authorization: Bearer TOKEN', TOKEN being "
            "REMOTEGPU_METRICS_TOKEN of this server.\n",
            401,
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    shown = address or "an unknown address"
    if settings.metrics_allow:
        return PlainTextResponse(
            f"Metrics are for the networks in REMOTEGPU_METRICS_ALLOW, and {shown} is in none of "
            "them.\n",
            403,
        )
    if address is not None and address.is_loopback:
        return None
    return PlainTextResponse(
        f"Metrics are for this host alone, and not for {shown}, until REMOTEGPU_METRICS_TOKEN or "
        "REMOTEGPU_METRICS_ALLOW is set.\n",
        403,
    )


def _address(
    request: Request, settings: Settings
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    peer = request.client.host if request.client else None
    if peer not in settings.trusted_proxies and _is_forwarded(request):
        # Some proxy stands between, and its address says nothing about who asks.
        return None
    try:
        address = ipaddress.ip_address(source_address(request, settings) or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_forwarded(request: Request) -> bool:
    return any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))

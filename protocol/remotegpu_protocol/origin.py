"""The address of a control plane: how it is written, signed and dialled."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import shorten

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def normalise_origin(url: str) -> str:
    """`scheme://host[:port]` in one spelling: lower case, http(s), no default port, no path.

    Both ends sign and compare this form, so `wss://GPU.example:443/` and `https://gpu.example`
    are one origin.

    Raises:
        InvalidValue: not an http, https, ws or wss URL with a host, or it holds credentials.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidValue(f"The address {shorten(url)!r} is no URL: {error}.") from None
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise InvalidValue(
            f"Expected an address like https://gpu.example.org, got {shorten(url)!r}."
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidValue("The address of a control plane holds no user name or password.")
    host = parts.hostname.lower()
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{shown}{suffix}"


def is_loopback(origin: str) -> bool:
    """Whether a normalised origin names this very host, so that no TLS is needed."""
    host = urlsplit(origin).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def agent_url(url: str) -> str:
    """The websocket address that an agent dials.

    Raises:
        InvalidValue: no URL, or an unencrypted one to another host.
    """
    origin = normalise_origin(url)
    scheme, rest = origin.split("://", 1)
    if scheme == "http" and not is_loopback(origin):
        raise InvalidValue(
            f"Agents speak to other hosts through TLS only: use https:// instead of {origin}."
        )
    return f"{_WEBSOCKET[scheme]}://{rest}/agent"

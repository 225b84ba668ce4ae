"""The address of a control plane: how it is written, signed and dialled."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import shorten

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_WEBSOCKET: Final = {"http": "ws", "https": "wss"}
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_USER_INFO: Final = re.compile(r"^(\w+://)?.*@", re.DOTALL)
_MAX_HOST: Final = 253
#: Where agents connect to, besides the root.
_PATHS: Final = frozenset({"", "/", "/agent"})


def normalise_origin(url: str) -> str:
    """`scheme://host[:port]` in one spelling: lower case, http(s), no default port, no path.

    Both ends sign and compare this form, so `wss://GPU.example:443/` and `https://gpu.example`
    are one origin. A final dot of the host goes; IP addresses take their canonical spelling.

    Raises:
        InvalidValue: not an http, https, ws or wss URL with a host, or it holds credentials, or a
            path below which no control plane is served.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        # The reason that Python gives may repeat a password.
        raise InvalidValue(
            f"The address {_shown(url)!r} is no URL: look at its brackets and its port."
        ) from None
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname or port == 0:
        raise InvalidValue(
            f"Expected an address like https://gpu.example.org, got {_shown(url)!r}."
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidValue("The address of a control plane holds no user name or password.")
    if parts.path not in _PATHS or parts.query or parts.fragment:
        # The path would be dropped without a word, and requests would go to another server's pages.
        raise InvalidValue(
            f"A control plane is served at the root of its host, not below a path; got "
            f"{_shown(url)!r}. Give it a host name or a port of its own, and leave out what "
            "follows the host."
        )
    host = _host(parts.hostname.lower(), bracketed="[" in parts.netloc)
    suffix = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{suffix}"


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


def _shown(url: str) -> str:
    return shorten(_USER_INFO.sub(r"\1…@", url))


def _host(host: str, *, bracketed: bool) -> str:
    if bracketed:
        return _ipv6(host)
    if not host.isascii():
        # Two standards (IDNA 2003 and 2008) map such names differently, and a signature needs
        # one spelling.
        raise InvalidValue(
            f"Write the host {shorten(host)!r} in its ASCII form, which begins with 'xn--'."
        )
    host = host.removesuffix(".")
    labels = host.split(".")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        # `127.1` and `0x7f000001` reach 127.0.0.1 on some systems and nothing on others.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise InvalidValue(
                f"Expected an IPv4 address of four decimal numbers, got {shorten(host)!r}."
            ) from None
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidValue(
            f"Expected a host of letters, digits, '-' and '.', got {shorten(host)!r}."
        )
    return host


def _ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise InvalidValue(f"Expected an IPv6 address without a zone, got {shorten(host)!r}.")
    # Python versions spell mapped addresses differently; the IPv4 one has one spelling.
    return str(address.ipv4_mapped) if address.ipv4_mapped else f"[{address}]"

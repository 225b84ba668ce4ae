"""What proxies say of the caller: X-Forwarded-For, and Forwarded of RFC 7239."""

import re
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers

from remotegpu_core.networks import IPNetwork, contains
from remotegpu_protocol.addresses import IPAddress, parse_address

#: What a proxy adds to a request. Callers can write these too.
_SIGNS: Final = (
    *("x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip"),
    *("cf-connecting-ip", "x-forwarded-host", "x-forwarded-proto"),
)

_PAIR: Final = re.compile(
    r"""\s*([\w!#$%&'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*))\s*([;,]|$)""", re.ASCII
)
_PORT: Final = re.compile(r":(?:\d{1,5}|_[\w.-]+)", re.ASCII)


def is_forwarded(headers: Headers) -> bool:
    """Whether a proxy passed the request on, or its caller says so."""
    return any(name in headers for name in _SIGNS)


def caller_behind(
    proxy: IPAddress, headers: Headers, trusted: Iterable[IPNetwork]
) -> IPAddress | None:
    """The address of the caller of a trusted proxy, None if the headers do not tell it.

    A proxy that is trusted and says nothing of a caller is the caller itself: a health check.
    """
    if not is_forwarded(headers):
        return proxy
    chains: list[list[IPAddress | None]] = []
    if "x-forwarded-for" in headers:
        entries = ",".join(headers.getlist("x-forwarded-for")).split(",")
        chains.append([_node(entry) for entry in entries])
    if "forwarded" in headers:
        # Each line for itself: one that a caller left broken must not hide a proxy's own.
        lines = headers.getlist("forwarded")
        chains.append([node for line in lines for node in _forwarded(line)])
    # A proxy writes one of the two headers and may pass on the other as its caller wrote it. If
    # they disagree, either may be the caller's invention.
    found = {_last_untrusted(proxy, chain, trusted) for chain in chains}
    return found.pop() if len(found) == 1 else None


def _last_untrusted(
    proxy: IPAddress, chain: list[IPAddress | None], trusted: Iterable[IPNetwork]
) -> IPAddress | None:
    """The last address that is not a proxy's: what stands left of it may be invented."""
    hop = proxy
    for address in reversed(chain):
        if address is None or address.is_unspecified or address.is_multicast:
            return None
        if address.is_loopback and not hop.is_loopback:
            # Loopback of another host than this one.
            return None
        if not contains(trusted, address):
            return address
        hop = address
    return hop


def _forwarded(line: str) -> list[IPAddress | None]:
    """The `for` of each element of a Forwarded header; one None for a line that is malformed."""
    found: list[IPAddress | None] = []
    node: IPAddress | None = None
    start = 0
    while pair := _PAIR.match(line, start):
        name, quoted, plain, separator = pair.groups()
        if name.lower() == "for":
            node = _node(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        start = pair.end()
        if separator == ";":
            continue
        found.append(node)
        node = None
        if not separator:
            return found
    return [None]


def _node(text: str) -> IPAddress | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.

    None for anything else, such as `unknown` and `_hidden`.
    """
    host, port = text.strip().strip('"'), ""
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket:
            return None
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        port = f":{port}"
    if port and not _PORT.fullmatch(port):
        return None
    return parse_address(host)

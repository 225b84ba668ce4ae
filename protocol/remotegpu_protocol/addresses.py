"""IP addresses of hosts: one spelling for each, and which of them tell a host from others."""

import ipaddress
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: What a server listens on that listens on all addresses of its host.
ANY_IPV4: Final = str(ipaddress.IPv4Address(0))
ANY_IPV6: Final = str(ipaddress.IPv6Address(0))

_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")


def parse_address(text: str | None) -> IPAddress | None:
    """The address that `text` spells, None when it spells none.

    Different spellings of an address are one: of IPv6 in any case, with leading zeros, with or
    without a zone (`fe80::1%eth0`); IPv4 as itself or mapped into IPv6 (`::ffff:192.0.2.1`).
    Leading zeros in IPv4 spell none: some programs read them as octal numbers.
    """
    if text is None:
        return None
    try:
        address = ipaddress.ip_address(text.strip().split("%", 1)[0])
    except ValueError:
        return None
    # A socket that speaks both families shows IPv4 peers as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_reachable(address: IPAddress) -> bool:
    """Whether others may reach one host by it: not loopback, link-local, multicast or reserved."""
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or (
            isinstance(address, ipaddress.IPv4Address)
            and (address.is_reserved or address in _THIS_NETWORK)
        )
    )

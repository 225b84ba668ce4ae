"""Where requests must not go, whatever an endpoint is called: services that only speak to the host
itself, of which a cloud's metadata service hands out its credentials."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_REFUSED: Final = tuple(
    ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        # Amazon's metadata service over version 6.
        "fd00:ec2::254/128",
        "0.0.0.0/8",
        "::/128",
    )
)
#: Version 4 within version 6: NAT64, and 6to4 by its own attribute.
_NAT64: Final = ip_network("64:ff9b::/96")


def is_refused(address: str) -> bool:
    """Whether no request goes to this IP address, in whatever form it is written."""
    try:
        return any(found in network for found in _forms(address) for network in _REFUSED)
    except ValueError:
        return True


def _forms(address: str) -> list[IPv4Address | IPv6Address]:
    found = ip_address(address.partition("%")[0].strip("[]"))
    forms: list[IPv4Address | IPv6Address] = [found]
    if isinstance(found, IPv6Address):
        forms += [inner for inner in (found.ipv4_mapped, found.sixtofour) if inner is not None]
        if found in _NAT64:
            forms.append(IPv4Address(int(found) & 0xFFFFFFFF))
    return forms

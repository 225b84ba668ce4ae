"""Networks: how settings name them, and which addresses count as one caller."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from remotegpu_protocol.addresses import IPAddress, parse_address
from remotegpu_protocol.grammar import shorten

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Stands for the address of a caller whose address cannot be determined. All such callers share
#: one set of limits, and no rule that names addresses includes them.
UNKNOWN: Final = "unknown"

_LOCALHOST: Final = (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("::1"))
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_networks(text: str) -> list[IPNetwork]:
    """The networks that one entry of a setting names; `localhost` names two.

    An address is a network of one address. IPv4 mapped into IPv6 is IPv4.

    Raises:
        ValueError: not a network; the message says what to write.
    """
    if text.lower() == "localhost":
        return list(_LOCALHOST)
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(_advice(text)) from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return [ipaddress.IPv4Network((str(mapped), network.prefixlen - 96))]
    return [network]


def contains(networks: Iterable[IPNetwork], address: IPAddress) -> bool:
    return any(address in network for network in networks)


def caller_network(address: str | None) -> str:
    """What limits count as one caller: an IPv4 address, a network of 64 bits of IPv6, UNKNOWN.

    Internet providers give each customer at least 64 bits, so one host has all of these addresses.
    """
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
    return UNKNOWN if parsed is None else str(parsed)


def _advice(text: str) -> str:
    try:
        wider = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return (
            f"expected networks such as 10.1.0.0/16 or ::1, or localhost; got {shorten(text)!r}, "
            "which is not one. Names of hosts are not looked up: write their addresses"
        )
    return (
        f"{text} has host bits set: write {wider} for the network, or "
        f"{text.partition('/')[0]} for that address alone"
    )

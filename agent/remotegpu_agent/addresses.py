"""The addresses under which a host can be reached."""

import ipaddress
import socket

import psutil

from remotegpu_protocol.inventory import Address, AddressKind
from remotegpu_protocol.limits import MAX_ADDRESSES

#: Interfaces that container engines and hypervisors make for themselves.
_INTERNAL = ("docker", "veth", "br-", "virbr", "cni", "flannel", "cali", "podman", "lxcbr")


def is_internal(interface: str) -> bool:
    return interface == "lo" or interface.startswith(_INTERNAL)


def host_addresses(dialled_from: str | None = None) -> list[Address]:
    """IPv4 and IPv6 addresses, the one that the agent dials from first.

    Loopback and link-local addresses are left out: nobody else reaches a host by them.
    """
    own = _parsed(dialled_from)
    found: list[Address] = []
    for interface, entries in sorted(psutil.net_if_addrs().items()):
        if is_internal(interface):
            continue
        for entry in entries:
            if entry.family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            address = _parsed(entry.address)
            if address is not None and _is_usable(address):
                found.append(Address(str(address), _kind(address, own), interface))
    order = list(AddressKind)
    found.sort(key=lambda address: (order.index(address.kind), address.address))
    return found[:MAX_ADDRESSES]


def _kind(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    own: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> AddressKind:
    if address == own:
        return AddressKind.MANAGEMENT
    return AddressKind.PUBLIC if address.is_global else AddressKind.ADDITIONAL


def _is_usable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


def _parsed(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if text is None:
        return None
    try:
        # Without the zone that link-local addresses carry: fe80::1%eth0.
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return None
    # A socket that speaks both families shows IPv4 peers as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address

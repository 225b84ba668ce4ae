"""The addresses under which a host can be reached."""

import socket

import psutil

from remotegpu_agent.interfaces import Interfaces
from remotegpu_protocol.addresses import IPAddress, is_reachable, parse_address
from remotegpu_protocol.inventory import Address, AddressKind
from remotegpu_protocol.limits import MAX_ADDRESSES


def host_addresses(
    dialled_from: str | None = None, interfaces: Interfaces | None = None
) -> list[Address]:
    """IPv4 and IPv6 addresses, the one that the agent dials from first.

    Loopback and link-local addresses are left out: nobody else reaches a host by them. So are those
    of interfaces that do not lead out of the host (see `interfaces`), but for the one it dials from.
    """
    interfaces = interfaces or Interfaces.read()
    own = parse_address(dialled_from)
    found: dict[IPAddress, Address] = {}
    for interface, entries in sorted(psutil.net_if_addrs().items()):
        outward = interfaces.is_outward(interface)
        for entry in entries:
            if entry.family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            address = parse_address(entry.address)
            if address is None or not is_reachable(address):
                continue
            if outward or address == own:
                found.setdefault(address, Address(str(address), _kind(address, own), interface))
    order = list(AddressKind)
    ordered = sorted(found.values(), key=lambda found: (order.index(found.kind), found.address))
    return ordered[:MAX_ADDRESSES]


def _kind(address: IPAddress, own: IPAddress | None) -> AddressKind:
    if address == own:
        return AddressKind.MANAGEMENT
    return AddressKind.PUBLIC if address.is_global else AddressKind.ADDITIONAL

"""Addresses of interfaces, given as psutil gives them."""

import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from psutil._ntuples import snicaddr

from remotegpu_agent.addresses import host_addresses
from remotegpu_agent.interfaces import Interfaces
from remotegpu_protocol.inventory import Address, AddressKind

V4, V6 = socket.AF_INET, socket.AF_INET6

Has = Callable[[dict[str, list[tuple[socket.AddressFamily, str]]]], None]


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    def give(found: dict[str, list[tuple[socket.AddressFamily, str]]]) -> None:
        entries = {
            name: [snicaddr(family, address, None, None, None) for family, address in pairs]
            for name, pairs in found.items()
        }
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)

    return give


def leading_out(*names: str) -> Interfaces:
    """Interfaces of which these lead out of the host."""
    return Interfaces(routed=frozenset(names), sysfs=Path("/nowhere"))


def test_what_others_cannot_reach_is_left_out(has: Has) -> None:
    has(
        {
            "lo": [(V4, "127.0.0.1"), (V6, "::1"), (V4, "10.1.1.1")],
            "eth0": [(V4, "10.0.0.5"), (V6, "fe80::1%eth0"), (V4, "169.254.3.4")],
            "lan0": [(V4, "172.17.0.1")],
            "docker0": [(V4, "10.9.9.9")],
        }
    )
    interfaces = leading_out("eth0", "docker0")
    assert host_addresses(interfaces=interfaces) == [
        Address("10.0.0.5", AddressKind.ADDITIONAL, "eth0"),
        Address("10.9.9.9", AddressKind.ADDITIONAL, "docker0"),
    ]
    # A host whose own address is on loopback, as hosts that speak BGP have it.
    own = Address("10.1.1.1", AddressKind.MANAGEMENT, "lo")
    assert host_addresses("10.1.1.1", interfaces)[0] == own


def test_the_address_dialled_from_is_the_management_address(has: Has) -> None:
    has({"eth0": [(V4, "10.0.0.5"), (V4, "8.8.4.4")], "ib0": [(V6, "2600::7")]})
    interfaces = leading_out("eth0", "ib0")
    assert host_addresses("::ffff:10.0.0.5", interfaces) == [
        Address("10.0.0.5", AddressKind.MANAGEMENT, "eth0"),
        Address("2600::7", AddressKind.PUBLIC, "ib0"),
        Address("8.8.4.4", AddressKind.PUBLIC, "eth0"),
    ]
    first = host_addresses("8.8.4.4", interfaces)[0]
    assert first == Address("8.8.4.4", AddressKind.MANAGEMENT, "eth0")


@pytest.mark.parametrize("dialled_from", [None, "127.0.0.1", "not an address"])
def test_without_one_no_address_is(has: Has, dialled_from: str | None) -> None:
    has({"eth0": [(V4, "10.0.0.5")]})
    found = host_addresses(dialled_from, leading_out("eth0"))
    assert [address.kind for address in found] == [AddressKind.ADDITIONAL]

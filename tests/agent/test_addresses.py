"""Addresses of interfaces, given as psutil gives them."""

import socket
from collections.abc import Callable

import psutil
import pytest
from psutil._ntuples import snicaddr

from remotegpu_agent.addresses import host_addresses
from remotegpu_protocol.inventory import Address, AddressKind

V4, V6 = socket.AF_INET, socket.AF_INET6

Interfaces = Callable[[dict[str, list[tuple[socket.AddressFamily, str]]]], None]


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> Interfaces:
    def give(found: dict[str, list[tuple[socket.AddressFamily, str]]]) -> None:
        entries = {
            name: [snicaddr(family, address, None, None, None) for family, address in pairs]
            for name, pairs in found.items()
        }
        monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)

    return give


def test_what_others_cannot_reach_is_left_out(interfaces: Interfaces) -> None:
    interfaces(
        {
            "lo": [(V4, "127.0.0.1"), (V6, "::1")],
            "eth0": [(V4, "10.0.0.5"), (V6, "fe80::1%eth0"), (V4, "169.254.3.4")],
            "docker0": [(V4, "172.17.0.1")],
            "br-1234": [(V4, "172.18.0.1")],
            "veth12": [(V4, "172.19.0.1")],
            "virbr0": [(V4, "192.168.122.1")],
            "cni0": [(V4, "10.244.0.1")],
            "lorawan0": [(V4, "10.9.9.9")],
        }
    )
    assert host_addresses() == [
        Address("10.0.0.5", AddressKind.ADDITIONAL, "eth0"),
        Address("10.9.9.9", AddressKind.ADDITIONAL, "lorawan0"),
    ]


def test_the_address_dialled_from_is_the_management_address(interfaces: Interfaces) -> None:
    interfaces({"eth0": [(V4, "10.0.0.5"), (V4, "8.8.4.4")], "ib0": [(V6, "2600::7")]})
    assert host_addresses("::ffff:10.0.0.5") == [
        Address("10.0.0.5", AddressKind.MANAGEMENT, "eth0"),
        Address("2600::7", AddressKind.PUBLIC, "ib0"),
        Address("8.8.4.4", AddressKind.PUBLIC, "eth0"),
    ]
    assert host_addresses("8.8.4.4")[0] == Address("8.8.4.4", AddressKind.MANAGEMENT, "eth0")


@pytest.mark.parametrize("dialled_from", [None, "127.0.0.1", "not an address"])
def test_without_one_no_address_is(interfaces: Interfaces, dialled_from: str | None) -> None:
    interfaces({"eth0": [(V4, "10.0.0.5")]})
    assert [address.kind for address in host_addresses(dialled_from)] == [AddressKind.ADDITIONAL]

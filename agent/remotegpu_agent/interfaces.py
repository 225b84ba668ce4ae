"""Which network interfaces lead out of the host, judged by what they are and not by their names.

Bridges of containers, ends of virtual cables and the like are the host's own business, and often have
the same address on every host.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from remotegpu_agent.link_kinds import link_kinds

_SYSFS: Final = Path("/sys/class/net")
_ROUTES: Final = Path("/proc/net/route")
_ROUTES_6: Final = Path("/proc/net/ipv6_route")
#: Tunnels of layer 3 to other hosts, whose addresses are one host's: as `ip -details link` calls them.
_VPN: Final = frozenset({"wireguard", "ppp", "xfrm", "vti", "vti6"})
#: Networks of containers and virtual machines that are laid over the host's, whatever lies below.
_OVERLAYS: Final = frozenset(
    {"vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl"}
)
#: A port of a switch that the kernel does not show as an interface.
_SWITCH: Final = "openvswitch"
#: IFF_TUN and IFF_TAP are the lowest bits of a tun device's flags (linux/if_tun.h).
_IFF_TUN: Final = 1
#: Drivers of cables between two computers: on a server, between it and its management controller.
_HOST_TO_HOST: Final = frozenset({"cdc_ether", "cdc_ncm", "cdc_eem", "cdc_subset", "rndis_host"})
#: Interfaces that lie below others: a bridge over a bond over two cards is three high.
_MAX_DEPTH: Final = 8
#: Seconds after which interfaces are looked at again that have not changed their names.
_LIFETIME: Final = 30.0


@dataclass(frozen=True, slots=True)
class Interfaces:
    """The host's interfaces as sysfs shows them; `kinds` as `link_kinds` gives them, `routed`: those
    with a default route."""

    kinds: Mapping[str, str] = field(default_factory=dict)
    routed: frozenset[str] = frozenset()
    sysfs: Path = _SYSFS

    @classmethod
    def read(cls) -> "Interfaces":
        try:
            kinds = link_kinds()
        except OSError:
            kinds = {}
        return cls(kinds, frozenset(default_routes()))

    def is_outward(self, name: str) -> bool:
        """Whether others reach the host through it, or it others."""
        return self._is_outward(name, _MAX_DEPTH)

    def counts_traffic(self, name: str) -> bool:
        """Whether it is a card of its own, whose traffic no other one counts again."""
        place = self.sysfs / name
        if not self._is_device(place) or _is_representor(place):
            return False
        # A card behind a virtual machine's own (Hyper-V), which adds the card's traffic to its own.
        return not self._is_device(place / "master")

    def _is_outward(self, name: str, depth: int) -> bool:
        place = self.sysfs / name
        if name in self.routed or self._is_device(place) or self._is_vpn(name):
            return True
        if self.kinds.get(name) in _OVERLAYS:
            return False
        lower = [link.name.removeprefix("lower_") for link in place.glob("lower_*")]
        return depth > 0 and any(self._is_outward(one, depth - 1) for one in lower)

    def _is_vpn(self, name: str) -> bool:
        flags = _read(self.sysfs / name / "tun_flags")
        if flags is not None:
            return bool(int(flags, 16) & _IFF_TUN)
        return self.kinds.get(name) in {*_VPN, _SWITCH}

    def _is_device(self, place: Path) -> bool:
        device = place / "device"
        return device.exists() and (device / "driver").resolve().name not in _HOST_TO_HOST


def _is_representor(place: Path) -> bool:
    """Of a virtual function's port at its card's switch: the card counts that traffic too."""
    port = _read(place / "phys_port_name") or ""
    return "vf" in port or "sf" in port


class OutwardTraffic:
    """Names of the interfaces whose counters add up to what goes in and out of the host."""

    def __init__(
        self,
        read: Callable[[], Interfaces] = Interfaces.read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._seen: frozenset[str] = frozenset()
        self._seen_at = float("-inf")
        self._chosen: frozenset[str] = frozenset()

    def among(self, names: Collection[str]) -> frozenset[str]:
        now, seen = self._clock(), frozenset(names)
        if seen != self._seen or now - self._seen_at > _LIFETIME:
            interfaces = self._read()
            cards = frozenset(name for name in seen if interfaces.counts_traffic(name))
            # A container has no card.
            self._chosen = cards or frozenset(filter(interfaces.is_outward, seen))
            self._seen, self._seen_at = seen, now
        return self._chosen


def default_routes(routes: Path = _ROUTES, routes_6: Path = _ROUTES_6) -> Iterator[str]:
    """Interfaces through which the host reaches what it has no other way to."""
    # Interface, destination, gateway, flags, reference count, use, metric, mask, ... in hexadecimal.
    for words in _table(routes):
        if len(words) > 7 and words[1] == words[7] == "00000000":
            yield words[0]
    # Destination, its prefix, source, its prefix, next hop, metric, two counts, flags, interface.
    for words in _table(routes_6):
        # The kernel keeps one for lo that refuses what has no other.
        if len(words) > 9 and int(words[1], 16) == 0 == int(words[0], 16) and words[9] != "lo":
            yield words[9]


def _table(path: Path) -> Iterator[list[str]]:
    return (line.split() for line in (_read(path) or "").splitlines())


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None

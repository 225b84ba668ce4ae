"""Interfaces as sysfs shows them, and real ones in a network namespace."""

import json
import subprocess
import sys
from pathlib import Path

from remotegpu_agent.interfaces import Interfaces, OutwardTraffic, default_routes

SCRIPT = """
set -e
ip link set lo up
ip link add docker0-like type bridge
ip link add lan0 type bridge
ip link add end0 type veth peer name end1
ip link set end1 master lan0
ip link add vx0 type vxlan id 5 dstport 4789 local 127.0.0.1 dev lo
ip link set vx0 master lan0
ip tuntap add dev tap0 mode tap
ip link set tap0 master docker0-like
ip tuntap add dev vpn0 mode tun
ip address add 10.9.8.7/24 dev lan0
ip link set lan0 up
ip link set end1 up
ip link set end0 up
exec "$@"
"""
ASK = """
import json, subprocess
from remotegpu_agent.interfaces import Interfaces
from remotegpu_agent.link_kinds import link_kinds

names = ("lo", "docker0-like", "lan0", "end0", "end1", "vx0", "tap0", "vpn0")
before = Interfaces.read()
answers = [link_kinds(), [name for name in names if before.is_outward(name)]]
subprocess.run(["ip", "route", "add", "default", "via", "10.9.8.1"], check=True)
after = Interfaces.read()
answers.append([name for name in names if after.is_outward(name)])
print(json.dumps(answers))
"""


def test_real_interfaces() -> None:
    found = subprocess.run(
        [
            *("unshare", "--net", "--mount", "sh", "-c", f"mount -t sysfs sysfs /sys\n{SCRIPT}"),
            *("sh", sys.executable, "-c", ASK),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    kinds, before, after = json.loads(found.stdout)
    assert {
        name: kinds[name] for name in ("docker0-like", "lan0", "end0", "vx0", "tap0", "vpn0")
    } == {
        "docker0-like": "bridge",
        "lan0": "bridge",
        "end0": "veth",
        "vx0": "vxlan",
        "tap0": "tun",
        "vpn0": "tun",
    }
    assert "lo" not in kinds
    assert before == ["vpn0"]
    # What has the default route leads out, whatever it is: a container has nothing else.
    assert after == ["lan0", "vpn0"]


class Net:
    """A /sys/class/net."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kinds: dict[str, str] = {}

    def add(self, name: str, kind: str | None = None, *lower: str, **files: str) -> None:
        place = self.root / name
        place.mkdir(parents=True)
        if kind is not None:
            self.kinds[name] = kind
        for one in lower:
            (place / f"lower_{one}").symlink_to(self.root / one)
            if kind in {"bridge", "bond"}:
                (self.root / one / "master").symlink_to(place)
        for file, content in files.items():
            (place / file).write_text(f"{content}\n")

    def card(self, name: str, driver: str = "mlx5_core", **files: str) -> None:
        self.add(name, **files)
        driver_place = self.root.parent / "drivers" / driver
        driver_place.mkdir(parents=True, exist_ok=True)
        (self.root / name / "device").mkdir()
        (self.root / name / "device" / "driver").symlink_to(driver_place)

    def interfaces(self, *routed: str) -> Interfaces:
        return Interfaces(self.kinds, frozenset(routed), self.root)

    def outward(self, *routed: str) -> set[str]:
        found = self.interfaces(*routed)
        return {place.name for place in self.root.iterdir() if found.is_outward(place.name)}


def test_what_leads_out(tmp_path: Path) -> None:
    net = Net(tmp_path / "net")
    net.add("lo")
    # Cards, called as bridges and virtual cables often are.
    for name in ("docker9", "veth-uplink", "eth0", "eth1"):
        net.card(name)
    net.add("bond7", "bond", "eth0", "eth1")
    net.add("vlan7", "vlan", "bond7")
    net.add("virbr-lan", "bridge", "vlan7")
    net.add("shim", "macvlan", "docker9")
    net.add("wg0", "wireguard")
    net.add("tun3", "tun", tun_flags="0x1001")
    net.add("br-ex", "openvswitch")
    outward = {*("docker9", "veth-uplink", "eth0", "eth1"), *("bond7", "vlan7", "virbr-lan")}
    outward |= {"shim", "wg0", "tun3", "br-ex"}
    # The host's own business, called as what leads out often is.
    net.add("tap4", "tun", tun_flags="0x1002")
    net.add("end0", "veth")
    net.add("lan0", "bridge", "tap4", "end0")
    net.add("bond0", "dummy")
    net.add("eth9", "vxlan", "eth0")
    net.add("br0", "bridge", "eth9")
    net.add("tunl0", "ipip")
    net.add("vboxnet0")
    # To the management controller, which has the same address in every server of its maker.
    net.card("usb0", driver="cdc_ether")
    assert net.outward() == outward
    assert net.outward("end0") == {*outward, "end0", "lan0"}


def test_a_ring_of_interfaces_ends(tmp_path: Path) -> None:
    net = Net(tmp_path / "net")
    net.add("one", "bridge")
    net.add("two", "bridge", "one")
    (tmp_path / "net" / "one" / "lower_two").symlink_to(tmp_path / "net" / "two")
    assert net.outward() == set()


def test_each_byte_is_counted_once(tmp_path: Path) -> None:
    net = Net(tmp_path / "net")
    names = ["lo", "card", "bond7", "docker0"]
    net.add("lo")
    net.card("card")
    net.add("bond7", "bond", "card")
    net.add("docker0", "bridge")
    # A port of the card's switch, and a card behind a virtual machine's own.
    net.card("port", phys_port_name="pf0vf3")
    net.card("uplink", phys_port_name="p0")
    net.card("behind")
    net.card("virtual", driver="hv_netvsc")
    (tmp_path / "net" / "behind" / "master").symlink_to(tmp_path / "net" / "virtual")
    names += ["port", "uplink", "behind", "virtual"]
    now = 0.0
    traffic = OutwardTraffic(net.interfaces, lambda: now)
    assert traffic.among(names) == {"card", "uplink", "virtual"}
    # Asked anew for other names, and after a while.
    assert traffic.among(["lo", "bond7"]) == {"bond7"}
    (tmp_path / "net" / "bond7" / "lower_card").unlink()
    assert traffic.among(["bond7", "lo"]) == {"bond7"}
    now = 31.0
    assert traffic.among(["bond7", "lo"]) == set()


def test_default_routes(tmp_path: Path) -> None:
    routes, routes_6 = tmp_path / "route", tmp_path / "ipv6_route"
    routes.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0103A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "short\n"
    )
    zero = "0" * 32
    routes_6.write_text(
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 00000003     eth1\n"
        f"fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 1 0 00000001     eth2\n"
        f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200       lo\n"
    )
    assert list(default_routes(routes, routes_6)) == ["eth0", "eth1"]
    assert list(default_routes(tmp_path / "none", tmp_path / "none")) == []

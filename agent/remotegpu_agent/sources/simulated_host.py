"""What a simulated host says about itself where the truth would clash with its neighbours.

Several simulated hosts share one real machine: their CPU, memory and disks are the real ones, but
a name, a hardware UUID and addresses of their own make them distinct machines.
"""

import ipaddress
import random
import uuid

from msgspec import structs

from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import (
    Address,
    AddressKind,
    GpuIsolation,
    HostInventory,
    IsolationKind,
)


def simulated_seed(public_key: bytes) -> int:
    """The seed of a host that was given none: as lasting, and as much its own, as its key."""
    return int.from_bytes(public_key[:6], "big")


def simulated_hardware_uuid(seed: int) -> str:
    return str(uuid.UUID(int=random.Random(f"host {seed}").getrandbits(128), version=4))


def simulated_hostname(seed: int, machine_name: str | None) -> str:
    """The machine's name once there is one."""
    return clean_text(machine_name) if machine_name else f"sim-{seed % 0x10000:04x}"


def simulated_host(host: HostInventory, *, seed: int, machine_name: str | None) -> HostInventory:
    """`host`, with what must differ between simulated hosts replaced.

    The address lies in 2001:db8::/32, which is set aside for examples (RFC 3849) and has room
    for as many hosts as anybody simulates.
    """
    last = random.Random(f"address {seed}").getrandbits(96)
    address = ipaddress.IPv6Address((0x20010DB8 << 96) | last)
    return structs.replace(
        host,
        hostname=simulated_hostname(seed, machine_name),
        hardware_uuid=simulated_hardware_uuid(seed),
        addresses=[Address(str(address), AddressKind.MANAGEMENT, "sim0")],
        gpu_isolation=GpuIsolation(
            IsolationKind.NONE, "This host is simulated: nobody can sign in to it."
        ),
    )

"""Machines that came the way that hosts come: enrolled, connected, inventoried, sampled."""

import asyncio
import hashlib
import ipaddress
import itertools
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from remotegpu_core.actor import SYSTEM
from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Gpu, Machine
from remotegpu_core.services.enrollments import create_enrollment, redeem
from remotegpu_core.services.grants import grant_machine
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.presence import connect
from remotegpu_graphql.ids import encode_id
from remotegpu_protocol.codec import encode
from remotegpu_protocol.inventory import (
    Address,
    AddressKind,
    Disk,
    DriverState,
    GpuInventory,
    HostInventory,
    Inventory,
    MigDevice,
    Policy,
)
from remotegpu_protocol.messages import Enroll
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess, HostMetrics, Metrics

GIB = 2**30
_numbers = itertools.count(1)


@dataclass
class Host:
    """A machine's row, its connection, and what its agent would say next."""

    plane: ControlPlane
    machine: Machine
    epoch: int = 0
    gpus: list[Gpu] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its id in the graph."""
        return encode_id("Machine", self.machine.id)

    @property
    def gpu_ids(self) -> list[str]:
        return [encode_id("Gpu", gpu.id) for gpu in self.gpus]

    async def connect(self) -> None:
        connected = await connect(
            self.machine.id, self.plane.replica_id, agent_version="1.2.3", boot_id="boot-1"
        )
        assert connected is not None
        self.machine, self.epoch = connected.machine, connected.epoch

    async def report(self, inventory: Inventory) -> None:
        """Have an inventory applied."""
        await apply_inventory(self.machine.id, self.epoch, inventory)
        self.machine = await Machine.get(id=self.machine.id)
        self.gpus = await Gpu.filter(machine_id=self.machine.id, removed_at=None).order_by("index")

    async def publish(self, sampled_at: int | None = None, **values: Any) -> Sample:
        """Publish a sample with a GPU for each of the machine's, and wait until the bus has it."""
        at = now_ms() if sampled_at is None else sampled_at
        metrics = sample_metrics(at, [gpu.uuid for gpu in self.gpus], **values)
        sample = Sample(self.epoch, at, encode(metrics))
        await self.plane.bus.publish_sample(self.machine.id, sample)
        deadline = time.monotonic() + 15
        while True:
            known = (await self.plane.bus.live([self.machine.id])).get(self.machine.id)
            if known is not None and known.sample is not None and known.sample.sampled_at == at:
                return sample
            assert time.monotonic() < deadline, "the bus did not take the sample"
            await asyncio.sleep(0.005)

    async def grant(
        self, *, user_id: uuid.UUID | None = None, workspace_id: uuid.UUID | None = None
    ) -> None:
        await grant_machine(SYSTEM, self.machine.id, user_id=user_id, workspace_id=workspace_id)


async def enrolled_host(
    plane: ControlPlane, name: str | None = None, *, labels: Sequence[tuple[str, str]] = ()
) -> Host:
    """A machine whose agent has not connected yet."""
    name = name or f"node-{next(_numbers)}"
    token, _ = await create_enrollment(SYSTEM, plane.settings, machine_name=name, labels=labels)
    machine = await redeem(
        Enroll(
            token=token,
            public_key=name.encode().ljust(32, b".")[:32],
            origin=plane.settings.origin,
            versions=[1],
            signature=bytes(64),
            agent_version="1.2.3",
            hostname=f"{name}.example.org",
        ),
        source_address="198.51.100.7",
    )
    return Host(plane, machine)


async def make_host(
    plane: ControlPlane,
    name: str | None = None,
    *,
    gpus: int = 2,
    model: str = "NVIDIA H100 80GB HBM3",
    labels: Sequence[tuple[str, str]] = (),
    policy: Policy | None = None,
) -> Host:
    """A machine that is online and has told what it is made of; monitored only without `policy`."""
    host = await enrolled_host(plane, name, labels=labels)
    await host.connect()
    await host.report(inventory(host.machine.name, gpus=gpus, model=model, policy=policy))
    return host


def ipv4_of(name: str) -> str:
    """An address of the host's own."""
    return str(ipaddress.IPv4Address(f"10.{'.'.join(map(str, _digest(name)[:3]))}"))


def ipv6_of(name: str) -> str:
    """Another one."""
    return str(ipaddress.IPv6Address(b"\x20\x01\x0d\xb8" + _digest(name)[:12]))


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def inventory(
    name: str,
    *,
    gpus: int = 2,
    model: str = "NVIDIA H100 80GB HBM3",
    policy: Policy | None = None,
) -> Inventory:
    """Everything that an inventory can say."""
    return Inventory(
        revision=1,
        host=HostInventory(
            hostname=f"{name}.example.org",
            cpu_model="AMD EPYC 9654",
            cpu_count=192,
            architecture="x86_64",
            memory_total=1536 * GIB,
            disk_total=8 * 2**40,
            disks=[Disk(name="nvme0n1", size=4 * 2**40, model="KCD8", rotational=False)],
            operating_system="Debian GNU/Linux 12",
            kernel="6.1.0-18-amd64",
            addresses=[
                Address(ipv4_of(name), AddressKind.MANAGEMENT, "eno1"),
                Address(ipv6_of(name), AddressKind.PUBLIC),
            ],
            driver_state=DriverState.READY,
            driver_version="550.54.15",
            cuda_version="12.4",
            policy=policy or Policy(),
        ),
        gpus=[
            GpuInventory(
                index=index,
                uuid=f"GPU-{name}-{index}",
                model=model,
                memory_total=80 * GIB,
                pci_bus_id=f"00000000:{index + 1:02X}:00.0",
                serial="1650923000001",
                vbios_version="96.00.74.00.01",
                mig_enabled=index == 0,
                mig_devices=[MigDevice("MIG-1", "1g.10gb", 10 * GIB)] if index == 0 else [],
            )
            for index in range(gpus)
        ],
    )


def sample_metrics(at: int, uuids: Sequence[str], **values: Any) -> Metrics:
    """A sample with a value in every field; `values` replace those of every GPU."""
    return Metrics(
        sampled_at=at,
        host=HostMetrics(
            cpu_utilization=12.5,
            memory_used=100 * GIB,
            memory_total=1536 * GIB,
            swap_used=0,
            swap_total=8 * GIB,
            load1=1.5,
            load5=1.25,
            load15=1.0,
            network_receive_bytes_per_second=1000.5,
            network_transmit_bytes_per_second=500.25,
            disk_used=2**40,
            disk_total=8 * 2**40,
            uptime_seconds=86400.0,
        ),
        gpus=[sample_gpu(index, uuid_, **values) for index, uuid_ in enumerate(uuids)],
    )


def sample_gpu(index: int, uuid_: str, **values: Any) -> GpuMetrics:
    return GpuMetrics(
        **{
            "index": index,
            "uuid": uuid_,
            "utilization": 50.0 + index,
            "memory_controller_utilization": 25.0,
            "memory_used": 40 * GIB,
            "memory_total": 80 * GIB,
            "temperature": 61.0,
            "power": 350.5,
            "power_limit": 700.0,
            "sm_clock": 1980,
            "memory_clock": 2619,
            "fan_speed": 30.0,
            "ecc_corrected": 2,
            "ecc_uncorrected": 0,
            "throttle_reasons": 0b101,
            "processes": [GpuProcess(4242, "python", "ada", 39 * GIB)],
            **values,
        }
    )

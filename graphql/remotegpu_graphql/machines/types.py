import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import strawberry

from remotegpu_core import models
from remotegpu_core.services import availability
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from remotegpu_graphql.context import Info
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.machines.addresses import Address
from remotegpu_graphql.machines.enums import MachineChangeKind
from remotegpu_graphql.machines.quarantine import QuarantineCause
from remotegpu_graphql.machines.ssh_server import HostSshServer
from remotegpu_graphql.metrics.types import GpuMetrics, MachineMetrics
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import ByteCount, DateTime
from remotegpu_graphql.sharing import share_fields
from remotegpu_protocol.inventory import DriverState, IsolationKind

if TYPE_CHECKING:
    from remotegpu_graphql.allocations.types import Allocation


@strawberry.type(description="A label of a machine.")
class Label:
    key: str = strawberry.field(description="Unique on its machine.")
    value: str = strawberry.field(description="Any short text.")


@strawberry.type(description="A block device.")
class Disk:
    name: str = strawberry.field(description="The kernel's name, such as nvme0n1.")
    model: str | None = strawberry.field(description="What its maker calls it.")
    size: ByteCount | None = strawberry.field(description="Its capacity.")
    rotational: bool | None = strawberry.field(description="Whether it spins.")


@strawberry.type(description="What a host is made of, as its agent last said.")
class MachineSpecs:
    hostname: str = strawberry.field(description="The host's own name.")
    cpu_model: str | None = strawberry.field(description="What the processor's maker calls it.")
    cpu_count: int | None = strawberry.field(description="Logical processors.")
    architecture: str | None = strawberry.field(description="Such as x86_64.")
    memory_total: ByteCount | None = strawberry.field(description="Main memory.")
    disk_total: ByteCount | None = strawberry.field(description="Size of its disks together.")
    disks: list[Disk] = strawberry.field(description="Block devices that hold data.")
    operating_system: str | None = strawberry.field(description="Such as Debian GNU/Linux 12.")
    kernel: str | None = strawberry.field(description="Release of the kernel.")
    hardware_uuid: str | None = strawberry.field(
        description="The firmware's UUID; null where it has none worth the name."
    )
    driver_state: DriverState = strawberry.field(description="Of the NVIDIA driver.")
    driver_message: str | None = strawberry.field(description="Why the driver does not work.")
    driver_version: str | None = strawberry.field(description="Of the NVIDIA driver.")
    cuda_version: str | None = strawberry.field(description="The newest CUDA it supports.")

    @classmethod
    def of(cls, host: dict[str, Any]) -> "MachineSpecs":
        return cls(
            hostname=host["hostname"],
            cpu_model=host.get("cpu_model"),
            cpu_count=_int(host.get("cpu_count")),
            architecture=host.get("architecture"),
            memory_total=host.get("memory_total"),
            disk_total=host.get("disk_total"),
            disks=[
                Disk(
                    name=disk["name"],
                    model=disk.get("model"),
                    size=disk.get("size"),
                    rotational=disk.get("rotational"),
                )
                for disk in host.get("disks", [])
            ],
            operating_system=host.get("operating_system"),
            kernel=host.get("kernel"),
            hardware_uuid=host.get("hardware_uuid"),
            driver_state=DriverState(host.get("driver_state", DriverState.ABSENT)),
            driver_message=host.get("driver_message"),
            driver_version=host.get("driver_version"),
            cuda_version=host.get("cuda_version"),
        )


def _int(value: int | None) -> int | None:
    """A number that an Int of GraphQL holds; the protocol lets a host claim more cores than that."""
    return value if value is not None and value < 2**31 else None


@strawberry.type(description="A slice of a GPU that MIG made.")
class MigDevice:
    uuid: str = strawberry.field(description="NVML's UUID of the slice.")
    name: str | None = strawberry.field(description="Its profile, such as 1g.10gb.")
    memory_total: ByteCount | None = strawberry.field(description="Its memory.")


@strawberry.type(description="A GPU in a machine.")
class Gpu(Node):
    row: strawberry.Private[models.Gpu]
    index: int = strawberry.field(description="NVML's index of the card on its host.")
    uuid: str = strawberry.field(description="NVML's UUID, which identifies the card for good.")
    model: str = strawberry.field(description="What its maker calls it.")
    memory_total: ByteCount | None = strawberry.field(description="Its memory.")
    health: Health = strawberry.field(description="What the driver says of it.")
    health_reason: str | None = strawberry.field(description="Why it is not HEALTHY.")

    @strawberry.field(description="Whether somebody holds it.")
    async def availability(self, info: Info) -> Availability:
        claims = await info.context.loaders.claims.load(self.row.machine_id)
        return availability.of_gpu(claims or {}, self.row.id)

    @strawberry.field(description="Where it sits on the PCI bus.")
    def pci_bus_id(self) -> str | None:
        return self._detail("pci_bus_id")

    @strawberry.field(description="The card's serial number, where it has one.")
    def serial(self) -> str | None:
        return self._detail("serial")

    @strawberry.field(description="Version of the card's firmware.")
    def vbios_version(self) -> str | None:
        return self._detail("vbios_version")

    @strawberry.field(description="Whether MIG divides it; null where the card cannot.")
    def mig_enabled(self) -> bool | None:
        enabled: bool | None = self.row.details.get("mig_enabled")
        return enabled

    @strawberry.field(description="The slices that MIG made of it.")
    def mig_devices(self) -> list[MigDevice]:
        return [
            MigDevice(
                uuid=device["uuid"],
                name=device.get("name"),
                memory_total=device.get("memory_total"),
            )
            for device in self.row.details.get("mig_devices", [])
        ]

    @strawberry.field(
        description="What it did at the newest sample, for two minutes after that was taken; null "
        "otherwise."
    )
    async def latest_metrics(self, info: Info) -> GpuMetrics | None:
        live = await info.context.loaders.live.load(self.row.machine_id)
        if live is None or live.sample is None:
            return None
        sample = MachineMetrics.of(self.row.machine_id, live.sample)
        return next((gpu for gpu in sample.gpus if gpu.uuid == self.row.uuid), None)

    @strawberry.field(
        description="The allocation that has it now, of a whole machine too; null where none has, or "
        "you may not see it."
    )
    async def allocation(
        self, info: Info
    ) -> Annotated["Allocation", strawberry.lazy("remotegpu_graphql.allocations.types")] | None:
        from remotegpu_graphql.allocations.types import Allocation

        row = await info.context.loaders.allocation_of_gpu.load(self.row.id)
        return None if row is None else Allocation.of(row)

    @strawberry.field(description="The machine it sits in.")
    async def machine(self, info: Info) -> "Machine":
        row = await info.context.loaders.machine.load(self.row.machine_id)
        if row is None:
            raise LookupError("a GPU outlived its machine")
        return Machine.of(row)

    def _detail(self, name: str) -> str | None:
        value: str | None = self.row.details.get(name)
        return value

    @classmethod
    def of(cls, row: models.Gpu) -> "Gpu":
        return cls(
            id=encode_id("Gpu", row.id),
            row=row,
            index=row.index,
            uuid=row.uuid,
            model=row.model,
            memory_total=None if row.memory_total is None else ByteCount(row.memory_total),
            health=Health(row.health),
            health_reason=row.health_reason,
        )


@strawberry.type(description="What a host's own policy file lets the control plane do there.")
class HostPolicy:
    commands: list[str] = strawberry.field(
        description="Kinds of command that it enables, such as allocation.start; none: the host is "
        "monitored only."
    )
    simulated: bool = strawberry.field(
        description="Whether the agent only pretends to carry commands out."
    )
    message: str | None = strawberry.field(
        description="Why a policy file that is there is not obeyed."
    )


@strawberry.type(
    description="How a host keeps the GPUs of one allocation from the accounts of others."
)
class GpuIsolation:
    kind: IsolationKind = strawberry.field(description="By which means.")
    reason: str | None = strawberry.field(description="Why it is not DEVICE_ACL; null when it is.")

    @classmethod
    def of(cls, host: dict[str, Any]) -> "GpuIsolation":
        """Of a machine's host, as its agent last said."""
        found = host.get("gpu_isolation") or {
            "kind": IsolationKind.NONE,
            "reason": "Its agent does not say that it keeps GPUs apart.",
        }
        return cls(kind=IsolationKind(found["kind"]), reason=found.get("reason"))


@strawberry.type(description="A host with GPUs, and the agent that runs on it.")
class Machine(Node):
    row: strawberry.Private[models.Machine]
    name: str = strawberry.field(description="Unique in any case.")
    presence: Presence = strawberry.field(description="Whether its agent is heard.")
    lifecycle: Lifecycle = strawberry.field(description="What the operators do with it.")
    lifecycle_reason: str | None = strawberry.field(
        description="Why it is in MAINTENANCE or QUARANTINED, in short: quarantineCauses has all."
    )
    draining: bool = strawberry.field(description="Whether new allocations are kept off it.")
    command_hold: str | None = strawberry.field(
        description="Why nothing is sent to the host until an admin accepts it; null when it is."
    )
    health: Health = strawberry.field(description="What it says of itself.")
    health_reasons: list[str] = strawberry.field(description="Why it is not HEALTHY.")
    agent_version: str | None = strawberry.field(description="Of the agent on it.")
    created_at: DateTime = strawberry.field(description="When it was enrolled.")
    inventory_at: DateTime | None = strawberry.field(
        description="When the agent last said what the host is made of."
    )

    @strawberry.field(description="Whether somebody holds it, or some of it.")
    async def availability(self, info: Info) -> Availability:
        loaders = info.context.loaders
        claims, gpus = await asyncio.gather(
            loaders.claims.load(self.row.id), loaders.gpus.load(self.row.id)
        )
        return availability.of_machine(claims or {}, (gpu.id for gpu in gpus))

    @strawberry.field(description="When its agent was last heard; null before the first time.")
    async def last_seen_at(self, info: Info) -> DateTime | None:
        live = await info.context.loaders.live.load(self.row.id)
        heard = [self.row.last_seen_at, live.last_seen_at if live else None]
        return max((DateTime(at) for at in heard if at is not None), default=None)

    @strawberry.field(
        description="Its IP addresses, those for management first; without those that are the "
        "host's own business, such as loopback, link-local and bridges that no network card is in."
    )
    async def addresses(self, info: Info) -> list[Address]:
        return [Address.of(row) for row in await info.context.loaders.addresses.load(self.row.id)]

    @strawberry.field(
        description="Why it may not be used, what is to be answered first before the rest. While there "
        "is one it is QUARANTINED, or will be when its MAINTENANCE ends."
    )
    async def quarantine_causes(self, info: Info) -> list[QuarantineCause]:
        rows = await info.context.loaders.quarantine_causes.load(self.row.id)
        return [QuarantineCause.of(row) for row in rows]

    @strawberry.field(description="Its labels, by their key.")
    async def labels(self, info: Info) -> list[Label]:
        rows = await info.context.loaders.labels.load(self.row.id)
        return [Label(key=row.key, value=row.value) for row in rows]

    @strawberry.field(description="What it is made of; null before its first inventory.")
    def specs(self) -> MachineSpecs | None:
        return MachineSpecs.of(self.row.host) if self.row.host else None

    @strawberry.field(description="What the host's own policy file allows.")
    def policy(self) -> HostPolicy:
        policy = self.row.host.get("policy") or {}
        return HostPolicy(
            commands=policy.get("commands", []),
            simulated=policy.get("simulated", False),
            message=policy.get("message"),
        )

    @strawberry.field(
        description="Its SSH server, before anybody allocates; null where its agent tells none."
    )
    def ssh_server(self) -> HostSshServer | None:
        server = self.row.host.get("ssh")
        return None if server is None else HostSshServer.of(server)

    @strawberry.field(description="How it keeps the GPUs of allocations that share it apart.")
    def gpu_isolation(self) -> GpuIsolation:
        return GpuIsolation.of(self.row.host)

    @strawberry.field(description="Its GPUs, by their index.")
    async def gpus(self, info: Info) -> list[Gpu]:
        return [Gpu.of(row) for row in await info.context.loaders.gpus.load(self.row.id)]

    @strawberry.field(
        description="The newest sample, for two minutes after it was taken; null otherwise."
    )
    async def latest_metrics(self, info: Info) -> MachineMetrics | None:
        live = await info.context.loaders.live.load(self.row.id)
        if live is None or live.sample is None:
            return None
        return MachineMetrics.of(self.row.id, live.sample)

    @classmethod
    def of(cls, row: models.Machine) -> "Machine":
        return cls(
            id=encode_id("Machine", row.id),
            row=row,
            name=row.name,
            presence=Presence(row.presence),
            lifecycle=Lifecycle(row.lifecycle),
            lifecycle_reason=row.lifecycle_reason,
            draining=row.draining,
            command_hold=row.command_hold,
            health=Health(row.health),
            health_reasons=row.health_reasons,
            agent_version=row.agent_version,
            created_at=DateTime(row.created_at),
            inventory_at=None if row.inventory_at is None else DateTime(row.inventory_at),
        )


# What shared events name them by.
share_fields("Machine", "id", "__typename")
share_fields("Gpu", "id", "__typename")


@strawberry.type(description="Something that happened to a machine.")
class MachineChange:
    cursor: str = strawberry.field(description="For `after`, to go on from here.")
    kind: MachineChangeKind = strawberry.field(description="What happened.")
    machine_id: strawberry.ID | None = strawberry.field(description="To which; null for READY.")
    machine_row_id: strawberry.Private[uuid.UUID | None]

    @strawberry.field(
        description="The machine as it is now; null for READY and when you may not see it."
    )
    async def machine(self, info: Info) -> Machine | None:
        if self.machine_row_id is None:
            return None
        row = await info.context.loaders.machine.load(self.machine_row_id)
        return None if row is None else Machine.of(row)

    @classmethod
    def ready(cls, sequence: int) -> "MachineChange":
        return cls(
            cursor=str(sequence),
            kind=MachineChangeKind.READY,
            machine_id=None,
            machine_row_id=None,
        )

    @classmethod
    def of(cls, row: models.MachineChange) -> "MachineChange":
        return cls(
            cursor=str(row.sequence),
            kind=MachineChangeKind(row.kind),
            machine_id=encode_id("Machine", row.machine_id),
            machine_row_id=row.machine_id,
        )

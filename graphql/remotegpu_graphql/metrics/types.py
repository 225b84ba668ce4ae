from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry

from remotegpu_core.bus.samples import Sample
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.metrics.subjects import gpu_of, machine_of, user_of
from remotegpu_graphql.scalars import ByteCount, Count, DateTime
from remotegpu_graphql.sharing import shareable, viewer_fields
from remotegpu_protocol import metrics as wire
from remotegpu_protocol.grammar import clean_text

if TYPE_CHECKING:
    from remotegpu_graphql.machines.types import Gpu, Machine
    from remotegpu_graphql.users.types import User


class ThrottleReason(StrEnum):
    GPU_IDLE = "GPU_IDLE"
    APPLICATIONS_CLOCKS_SETTING = "APPLICATIONS_CLOCKS_SETTING"
    SW_POWER_CAP = "SW_POWER_CAP"
    HW_SLOWDOWN = "HW_SLOWDOWN"
    SYNC_BOOST = "SYNC_BOOST"
    SW_THERMAL_SLOWDOWN = "SW_THERMAL_SLOWDOWN"
    HW_THERMAL_SLOWDOWN = "HW_THERMAL_SLOWDOWN"
    HW_POWER_BRAKE_SLOWDOWN = "HW_POWER_BRAKE_SLOWDOWN"
    DISPLAY_CLOCK_SETTING = "DISPLAY_CLOCK_SETTING"
    BOARD_LIMIT = "BOARD_LIMIT"
    RELIABILITY = "RELIABILITY"


graph_enum(
    ThrottleReason,
    "Why a GPU's clocks are below their maximum, as NVML names it (nvmlClocksEventReasons).",
    {
        "GPU_IDLE": "Nothing runs.",
        "APPLICATIONS_CLOCKS_SETTING": "Somebody set lower application clocks.",
        "SW_POWER_CAP": "The power limit is reached.",
        "HW_SLOWDOWN": "The hardware slowed down by half or more: heat, or the power supply.",
        "SYNC_BOOST": "Another GPU of its sync boost group holds it back.",
        "SW_THERMAL_SLOWDOWN": "The driver slowed it down to stay below a temperature.",
        "HW_THERMAL_SLOWDOWN": "The hardware slowed it down because it is too hot.",
        "HW_POWER_BRAKE_SLOWDOWN": "The power supply asked for less.",
        "DISPLAY_CLOCK_SETTING": "A display needs this clock.",
        "BOARD_LIMIT": "A limit of the board is reached.",
        "RELIABILITY": "The driver holds it back so that it lasts.",
    },
)

# NVML's bits, in the order of the enum (nvml.h, nvmlClocksEventReason*; the last two are of its
# older nvmlClocksThrottleReason*).
_REASONS = tuple((1 << bit, reason) for bit, reason in enumerate(ThrottleReason))


@shareable
@strawberry.type(description="Memory errors that ECC found over the card's life.")
class EccErrors:
    corrected: Count | None = strawberry.field(description="Errors that were put right.")
    uncorrected: Count | None = strawberry.field(description="Errors that were not.")


@shareable
@strawberry.type(description="A process that holds memory on a GPU.")
class GpuProcess:
    pid: int = strawberry.field(description="Process id on the host.")
    name: str | None = strawberry.field(description="Name of the program.")
    username: str | None = strawberry.field(description="The POSIX user that runs it.")
    memory_used: ByteCount | None = strawberry.field(description="GPU memory that it holds.")
    machine_row_id: strawberry.Private[UUID]

    @strawberry.field(
        description="The user whose allocation has the account that runs it; null for accounts that no "
        "allocation has, and for users that you may not see. A subscription that asks for it is served "
        "to you alone."
    )
    async def user(
        self, info: Info
    ) -> Annotated["User", strawberry.lazy("remotegpu_graphql.users.types")] | None:
        return await user_of(info.context, self.machine_row_id, self.username)

    @classmethod
    def of(cls, machine_id: UUID, process: wire.GpuProcess) -> "GpuProcess":
        return cls(
            pid=process.pid,
            name=_clean(process.name),
            username=_clean(process.username),
            memory_used=_bytes(process.memory_used),
            machine_row_id=machine_id,
        )


viewer_fields("GpuProcess", "user")


@shareable
@strawberry.type(
    description="What one GPU did. A value that the card does not support is null, and so is one "
    "that its driver could not give."
)
class GpuMetrics:
    index: int = strawberry.field(description="NVML's index of the card on its host.")
    uuid: str = strawberry.field(description="NVML's UUID of the card.")
    utilization: float | None = strawberry.field(
        description="Percent of the time in which a kernel ran, 0 to 100."
    )
    memory_controller_utilization: float | None = strawberry.field(
        description="Percent of the time in which memory was read or written, 0 to 100."
    )
    memory_used: ByteCount | None = strawberry.field(description="Memory in use.")
    memory_total: ByteCount | None = strawberry.field(description="Memory that there is.")
    temperature: float | None = strawberry.field(description="Of the chip, in degrees Celsius.")
    power: float | None = strawberry.field(description="Drawn now, in watts.")
    power_limit: float | None = strawberry.field(description="Enforced limit, in watts.")
    sm_clock: int | None = strawberry.field(description="Clock of the multiprocessors, in MHz.")
    memory_clock: int | None = strawberry.field(description="Clock of the memory, in MHz.")
    fan_speed: float | None = strawberry.field(description="Percent of the fan's maximum.")
    ecc_errors: EccErrors | None = strawberry.field(
        description="Null where the card has no ECC memory."
    )
    machine_row_id: strawberry.Private[UUID]
    reading: strawberry.Private[wire.GpuMetrics]

    @strawberry.field(
        description="The card, for caches that keep objects by their id; null while the inventory "
        "does not have it. Of a subscription, asking for its id alone keeps events shared."
    )
    async def gpu(
        self, info: Info
    ) -> Annotated["Gpu", strawberry.lazy("remotegpu_graphql.machines.types")] | None:
        return await gpu_of(info.context, self.machine_row_id, self.uuid)

    @strawberry.field(description="Why its clocks are below their maximum; null when unknown.")
    def throttle_reasons(self) -> list[ThrottleReason] | None:
        mask = self.reading.throttle_reasons
        return None if mask is None else [reason for bit, reason in _REASONS if mask & bit]

    @strawberry.field(description="Who holds memory on it; null when the driver does not say.")
    def processes(self) -> list[GpuProcess] | None:
        found = self.reading.processes
        if found is None:
            return None
        return [GpuProcess.of(self.machine_row_id, process) for process in found]

    @classmethod
    def of(cls, machine_id: UUID, gpu: wire.GpuMetrics) -> "GpuMetrics":
        has_ecc = gpu.ecc_corrected is not None or gpu.ecc_uncorrected is not None
        return cls(
            index=gpu.index,
            uuid=gpu.uuid,
            utilization=gpu.utilization,
            memory_controller_utilization=gpu.memory_controller_utilization,
            memory_used=_bytes(gpu.memory_used),
            memory_total=_bytes(gpu.memory_total),
            temperature=gpu.temperature,
            power=gpu.power,
            power_limit=gpu.power_limit,
            sm_clock=gpu.sm_clock,
            memory_clock=gpu.memory_clock,
            fan_speed=gpu.fan_speed,
            ecc_errors=EccErrors(
                corrected=_count(gpu.ecc_corrected), uncorrected=_count(gpu.ecc_uncorrected)
            )
            if has_ecc
            else None,
            machine_row_id=machine_id,
            reading=gpu,
        )


@shareable
@strawberry.type(description="What a host did. A value that it could not read is null.")
class HostMetrics:
    cpu_utilization: float | None = strawberry.field(description="Percent of all cores, 0 to 100.")
    memory_used: ByteCount | None = strawberry.field(description="Memory that is not available.")
    memory_total: ByteCount | None = strawberry.field(description="Memory that there is.")
    swap_used: ByteCount | None = strawberry.field(description="Swap in use.")
    swap_total: ByteCount | None = strawberry.field(description="Swap that there is.")
    load1: float | None = strawberry.field(description="Load average of a minute.")
    load5: float | None = strawberry.field(description="Load average of five minutes.")
    load15: float | None = strawberry.field(description="Load average of a quarter of an hour.")
    network_receive_bytes_per_second: float | None = strawberry.field(
        description="Received, over all real interfaces."
    )
    network_transmit_bytes_per_second: float | None = strawberry.field(
        description="Sent, over all real interfaces."
    )
    disk_used: ByteCount | None = strawberry.field(description="In use on all real file systems.")
    disk_total: ByteCount | None = strawberry.field(description="Size of all real file systems.")
    uptime_seconds: float | None = strawberry.field(description="Since the host was started.")

    @classmethod
    def of(cls, host: wire.HostMetrics) -> "HostMetrics":
        return cls(
            cpu_utilization=host.cpu_utilization,
            memory_used=_bytes(host.memory_used),
            memory_total=_bytes(host.memory_total),
            swap_used=_bytes(host.swap_used),
            swap_total=_bytes(host.swap_total),
            load1=host.load1,
            load5=host.load5,
            load15=host.load15,
            network_receive_bytes_per_second=host.network_receive_bytes_per_second,
            network_transmit_bytes_per_second=host.network_transmit_bytes_per_second,
            disk_used=_bytes(host.disk_used),
            disk_total=_bytes(host.disk_total),
            uptime_seconds=host.uptime_seconds,
        )


@shareable
@strawberry.type(description="A sample of a machine: its host and its GPUs at one moment.")
class MachineMetrics:
    machine_id: strawberry.ID = strawberry.field(description="The machine it was taken on.")
    sampled_at: DateTime = strawberry.field(description="When, by the control plane's clock.")
    host: HostMetrics = strawberry.field(description="The host.")
    gpus: list[GpuMetrics] = strawberry.field(description="Its GPUs, by their index.")
    machine_row_id: strawberry.Private[UUID]

    @strawberry.field(
        description="The machine, for caches that keep objects by their id; null when you may not "
        "see it any more. Of a subscription, asking for its id alone keeps events shared."
    )
    async def machine(
        self, info: Info
    ) -> Annotated["Machine", strawberry.lazy("remotegpu_graphql.machines.types")] | None:
        return await machine_of(info.context, self.machine_row_id)

    @classmethod
    def of(cls, machine_id: UUID, sample: Sample) -> "MachineMetrics":
        return cls(
            machine_id=encode_id("Machine", machine_id),
            sampled_at=DateTime(sample.sampled_at),
            host=HostMetrics.of(sample.metrics.host),
            gpus=[GpuMetrics.of(machine_id, gpu) for gpu in sample.metrics.gpus],
            machine_row_id=machine_id,
        )


def _clean(text: str | None) -> str | None:
    """What a process calls itself, as it may be shown."""
    return None if text is None else clean_text(text)


def _bytes(value: int | None) -> ByteCount | None:
    return None if value is None else ByteCount(value)


def _count(value: int | None) -> Count | None:
    return None if value is None else Count(value)

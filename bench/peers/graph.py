"""The graph of live metrics as one would write it with Strawberry, with the product's fields."""

from datetime import UTC, datetime
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

from bench.fleet import name_of, samples
from remotegpu_core.bus.samples import Sample
from remotegpu_protocol import metrics as wire

ByteCount = NewType("ByteCount", int)
DateTime = NewType("DateTime", int)


def format_time(value: int) -> str:
    seconds, milliseconds = divmod(value, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


SCALARS: dict[object, ScalarDefinition] = {
    ByteCount: strawberry.scalar(name="ByteCount", serialize=int, parse_value=int),
    DateTime: strawberry.scalar(name="DateTime", serialize=format_time, parse_value=int),
}


@strawberry.type
class GpuMetrics:
    index: int
    uuid: str
    utilization: float | None
    memory_used: ByteCount | None
    memory_total: ByteCount | None
    temperature: float | None
    power: float | None
    power_limit: float | None
    sm_clock: int | None
    memory_clock: int | None

    @classmethod
    def of(cls, gpu: wire.GpuMetrics) -> "GpuMetrics":
        return cls(
            index=gpu.index,
            uuid=gpu.uuid,
            utilization=gpu.utilization,
            memory_used=_bytes(gpu.memory_used),
            memory_total=_bytes(gpu.memory_total),
            temperature=gpu.temperature,
            power=gpu.power,
            power_limit=gpu.power_limit,
            sm_clock=gpu.sm_clock,
            memory_clock=gpu.memory_clock,
        )


@strawberry.type
class HostMetrics:
    cpu_utilization: float | None
    memory_used: ByteCount | None
    memory_total: ByteCount | None

    @classmethod
    def of(cls, host: wire.HostMetrics) -> "HostMetrics":
        return cls(
            cpu_utilization=host.cpu_utilization,
            memory_used=_bytes(host.memory_used),
            memory_total=_bytes(host.memory_total),
        )


@strawberry.type
class MachineMetrics:
    machine_id: strawberry.ID
    sampled_at: DateTime
    host: HostMetrics
    gpus: list[GpuMetrics]

    @classmethod
    def of(cls, machine_id: str, sample: Sample) -> "MachineMetrics":
        return cls(
            machine_id=strawberry.ID(machine_id),
            sampled_at=DateTime(sample.sampled_at),
            host=HostMetrics.of(sample.metrics.host),
            gpus=[GpuMetrics.of(gpu) for gpu in sample.metrics.gpus],
        )


@strawberry.type
class LatestMetrics:
    sampled_at: DateTime
    gpus: list[GpuMetrics]


@strawberry.type
class Machine:
    id: strawberry.ID
    name: str
    latest_metrics: LatestMetrics | None


@strawberry.type
class MachineEdge:
    node: Machine


@strawberry.type
class MachineConnection:
    edges: list[MachineEdge]


def make_fleet() -> MachineConnection:
    """What `machines` answers, from memory."""
    return MachineConnection(
        edges=[
            MachineEdge(
                node=Machine(
                    id=strawberry.ID(name_of(number)),
                    name=name_of(number),
                    latest_metrics=LatestMetrics(
                        sampled_at=DateTime(metrics.sampled_at),
                        gpus=[GpuMetrics.of(gpu) for gpu in metrics.gpus],
                    ),
                )
            )
            for number, metrics in enumerate(samples())
        ]
    )


def _bytes(value: int | None) -> ByteCount | None:
    return None if value is None else ByteCount(value)

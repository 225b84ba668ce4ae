"""The fleet in numbers, for what the caller sees of it."""

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from remotegpu_core.bus.bus import Bus
from remotegpu_core.models import Gpu, Machine
from remotegpu_core.services.availability import claims_of, of_gpu
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from remotegpu_protocol.metrics import GpuMetrics
from remotegpu_protocol.values import MAX_SAFE_INTEGER


@dataclass(frozen=True, slots=True)
class MachineCounts:
    total: int
    online: int
    unreachable: int
    lost: int
    available: int
    allocated: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class GpuTotals:
    """`utilization` is the mean over the GPUs that report it; sums are over those that do."""

    total: int
    available: int
    allocated: int
    unhealthy: int
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None


@dataclass(frozen=True, slots=True)
class Fleet:
    machines: MachineCounts
    gpus: GpuTotals


async def summarise(bus: Bus, visible: frozenset[uuid.UUID] | None) -> Fleet:
    """Count the machines `visible` (None: all) and their GPUs: three queries, one round trip."""
    query, gpu_query = Machine.all(), Gpu.filter(removed_at=None)
    if visible is not None:
        query = query.filter(id__in=list(visible))
        gpu_query = gpu_query.filter(machine_id__in=list(visible))
    machines = [
        _Row(machine_id, Presence(presence), Lifecycle(lifecycle))
        for machine_id, presence, lifecycle in await query.values_list(
            "id", "presence", "lifecycle"
        )
    ]
    usable = {row.id for row in machines if row.usable}
    claims = await claims_of(visible)
    gpus = [
        (machine_id, Health(health), of_gpu(claims.get(machine_id, {}), gpu_id))
        for machine_id, gpu_id, health in await gpu_query.values_list("machine_id", "id", "health")
    ]
    free = Availability.AVAILABLE
    held = {machine_id for machine_id, _, availability in gpus if availability is not free}
    held |= {machine_id for machine_id, claimed in claims.items() if None in claimed}
    live = await bus.live([row.id for row in machines if row.presence is Presence.ONLINE])
    samples = [
        gpu
        for known in live.values()
        if known.sample is not None
        for gpu in known.sample.metrics.gpus
    ]
    presence = Counter(row.presence for row in machines)
    return Fleet(
        MachineCounts(
            total=len(machines),
            online=presence[Presence.ONLINE],
            unreachable=presence[Presence.UNREACHABLE],
            lost=presence[Presence.LOST],
            available=len(usable - held),
            allocated=len(held & {row.id for row in machines}),
            quarantined=sum(row.lifecycle is Lifecycle.QUARANTINED for row in machines),
        ),
        GpuTotals(
            total=len(gpus),
            available=sum(
                machine_id in usable and health is not Health.UNHEALTHY and availability is free
                for machine_id, health, availability in gpus
            ),
            allocated=sum(availability is not free for _, _, availability in gpus),
            unhealthy=sum(health is Health.UNHEALTHY for _, health, _ in gpus),
            **_totals(samples),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    id: uuid.UUID
    presence: Presence
    lifecycle: Lifecycle

    @property
    def usable(self) -> bool:
        return self.presence is Presence.ONLINE and self.lifecycle is Lifecycle.IN_SERVICE


def _totals(samples: Sequence[GpuMetrics]) -> "_Totals":
    utilization = [gpu.utilization for gpu in samples if gpu.utilization is not None]
    used = [gpu.memory_used for gpu in samples if gpu.memory_used is not None]
    total = [gpu.memory_total for gpu in samples if gpu.memory_total is not None]
    power = [gpu.power for gpu in samples if gpu.power is not None]
    return {
        "utilization": round(sum(utilization) / len(utilization), 3) if utilization else None,
        "memory_used": min(sum(used), MAX_SAFE_INTEGER) if used else None,
        "memory_total": min(sum(total), MAX_SAFE_INTEGER) if total else None,
        "power": round(sum(power), 3) if power else None,
    }


class _Totals(TypedDict):
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    power: float | None

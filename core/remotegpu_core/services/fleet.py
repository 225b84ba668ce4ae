"""The fleet in numbers, for what the caller sees of it."""

import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Final

from remotegpu_core.bus.bus import Bus
from remotegpu_core.bus.sums import GpuSums
from remotegpu_core.clock import now_ms
from remotegpu_core.database.sql import select
from remotegpu_core.services.availability import REMOVED_GPUS, USELESS_GPUS
from remotegpu_core.states import Lifecycle, Presence
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


#: By presence and lifecycle: machines and those of them on which something is claimed, their GPUs,
#: those that can be used, those that are claimed, and those that can be used of these.
_COUNTS: Final = """
SELECT m.presence, m.lifecycle, COUNT(*) AS machines,
    SUM(CASE WHEN c.whole = 1 OR c.held > 0 THEN 1 ELSE 0 END) AS held_machines,
    COALESCE(SUM(g.gpus), 0) AS gpus, COALESCE(SUM(g.usable), 0) AS usable,
    COALESCE(SUM(CASE WHEN c.whole = 1 THEN g.gpus ELSE c.held END), 0) AS held,
    COALESCE(SUM(CASE WHEN c.whole = 1 THEN g.usable ELSE c.held_usable END), 0) AS held_usable
FROM machine AS m
    LEFT JOIN (
        SELECT machine_id, SUM(gpus) AS gpus, SUM(usable) AS usable
        FROM gpu_group GROUP BY machine_id
    ) AS g ON g.machine_id = m.id
    LEFT JOIN (
        SELECT machine_id, MAX(CASE WHEN gpu_id IS NULL THEN 1 ELSE 0 END) AS whole,
            COUNT(DISTINCT CASE WHEN gpu_id NOT IN ({removed}) THEN gpu_id END) AS held,
            COUNT(DISTINCT CASE WHEN gpu_id NOT IN ({useless}) THEN gpu_id END) AS held_usable
        FROM booking AS b WHERE b.held AND b.starts_at <= ? GROUP BY machine_id
    ) AS c ON c.machine_id = m.id
WHERE {visible} GROUP BY m.presence, m.lifecycle
"""
_ONLINE: Final = "SELECT m.id, m.epoch FROM machine AS m WHERE m.presence = 'ONLINE' AND {visible}"

#: Machines whose samples are read at once, so that nothing else waits for all of them.
_AT_ONCE: Final = 250


async def summarise(bus: Bus, visible: frozenset[uuid.UUID] | None) -> Fleet:
    """Count the machines `visible` (None: all) and their GPUs, by the database; and sum up what is
    live, some machines at a time."""
    seen = "1 = 1" if visible is None else f"m.id IN ({_listed(visible)})"
    rows = await select(
        _COUNTS.format(visible=seen, removed=REMOVED_GPUS, useless=USELESS_GPUS), now_ms()
    )
    presence, lifecycle = Counter[str](), Counter[str]()
    for row in rows:
        presence[row["presence"]] += row["machines"]
        lifecycle[row["lifecycle"]] += row["machines"]
    usable = [
        row
        for row in rows
        if (row["presence"], row["lifecycle"]) == (Presence.ONLINE, Lifecycle.IN_SERVICE)
    ]
    online = await select(_ONLINE.format(visible=seen))
    sums = GpuSums()
    for first in range(0, len(online), _AT_ONCE):
        some = online[first : first + _AT_ONCE]
        await bus.add_latest({row[0]: row[1] for row in some}, sums)
    gpus = sum(int(row["gpus"]) for row in rows)
    return Fleet(
        MachineCounts(
            total=sum(presence.values()),
            online=presence[Presence.ONLINE],
            unreachable=presence[Presence.UNREACHABLE],
            lost=presence[Presence.LOST],
            available=sum(row["machines"] - row["held_machines"] for row in usable),
            allocated=sum(row["held_machines"] for row in rows),
            quarantined=lifecycle[Lifecycle.QUARANTINED],
        ),
        GpuTotals(
            total=gpus,
            available=sum(int(row["usable"] - row["held_usable"]) for row in usable),
            allocated=sum(int(row["held"]) for row in rows),
            unhealthy=gpus - sum(int(row["usable"]) for row in rows),
            utilization=None
            if sums.utilization is None
            else round(sums.utilization / sums.reporting, 3),
            memory_used=_exact(sums.memory_used),
            memory_total=_exact(sums.memory_total),
            power=None if sums.power is None else round(sums.power, 3),
        ),
    )


def _listed(machine_ids: frozenset[uuid.UUID]) -> str:
    """Of UUIDs, which need no escaping; as values they would be too many for some databases."""
    return ", ".join(f"'{machine_id}'" for machine_id in machine_ids) or "NULL"


def _exact(size: int | None) -> int | None:
    """At most what every reader of JSON keeps exact."""
    return None if size is None else min(size, MAX_SAFE_INTEGER)

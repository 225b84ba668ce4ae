"""Who holds what at this moment: derived from what is booked, per GPU and per machine."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, cast

from tortoise.expressions import Q

from remotegpu_core.clock import now_ms
from remotegpu_core.database.sql import SubSelect, contains
from remotegpu_core.models import Booking
from remotegpu_core.states import FINAL, AllocationState, Availability

#: What is claimed on a machine: the GPUs, and None for the machine as a whole.
Claims = Mapping[uuid.UUID | None, Availability]

_LIVE: Final = [state for state in AllocationState if state not in FINAL]


async def claims_of(
    machine_ids: Collection[uuid.UUID] | None,
) -> dict[uuid.UUID, dict[uuid.UUID | None, Availability]]:
    """Claims by machine, of `machine_ids` or of all; machines without any are left out.

    A promise counts from its start until it is settled, which is when what it held is proven
    clean: later than its end where that takes longer.
    """
    held = Booking.filter(held=True, starts_at__lte=now_ms(), allocation__state__in=_LIVE)
    if machine_ids is not None:
        held = held.filter(machine_id__in=list(machine_ids))
    rows = cast(
        "list[tuple[uuid.UUID, uuid.UUID | None, str]]",
        await held.values_list("machine_id", "gpu_id", "allocation__state"),
    )
    found: dict[uuid.UUID, dict[uuid.UUID | None, Availability]] = defaultdict(dict)
    for machine_id, gpu_id, state in rows:
        # Who waits for it to be cleaned does not hide that it is being cleaned.
        if found[machine_id].get(gpu_id) is not Availability.RECLAIMING:
            reclaiming = state == AllocationState.RECLAIMING
            found[machine_id][gpu_id] = (
                Availability.RECLAIMING if reclaiming else Availability.ALLOCATED
            )
    return dict(found)


def of_gpu(claims: Claims, gpu_id: uuid.UUID) -> Availability:
    return claims.get(gpu_id, claims.get(None, Availability.AVAILABLE))


def of_machine(claims: Claims, gpu_ids: Iterable[uuid.UUID]) -> Availability:
    """RECLAIMING when all that there is is being cleaned, ALLOCATED when all of it is held."""
    if None in claims:
        return claims[None]
    states = [of_gpu(claims, gpu_id) for gpu_id in gpu_ids]
    held = [state for state in states if state is not Availability.AVAILABLE]
    if not held:
        return Availability.AVAILABLE
    if len(held) < len(states):
        return Availability.PARTLY_ALLOCATED
    if all(state is Availability.RECLAIMING for state in held):
        return Availability.RECLAIMING
    return Availability.ALLOCATED


#: GPUs that cannot be used, and those of them that are not there any more: few, and in an index of
#: their own.
USELESS_GPUS: Final = "SELECT id FROM gpu WHERE removed_at IS NOT NULL OR health = 'UNHEALTHY'"
REMOVED_GPUS: Final = (
    "SELECT id FROM gpu "
    "WHERE (removed_at IS NOT NULL OR health = 'UNHEALTHY') AND removed_at IS NOT NULL"
)
#: An index has all that is claimed, without the allocations: those that are being cleaned, which are
#: few, are looked for by themselves.
_CLAIMED: Final = """
SELECT machine_id, gpus, whole, held, CASE
    WHEN whole_reclaiming = 1 THEN 'RECLAIMING'
    WHEN whole = 1 THEN 'ALLOCATED'
    WHEN held = 0 THEN 'AVAILABLE'
    WHEN held < gpus THEN 'PARTLY_ALLOCATED'
    WHEN reclaiming = held THEN 'RECLAIMING'
    ELSE 'ALLOCATED' END AS availability
FROM (
    SELECT c.machine_id, c.whole, c.held, r.whole AS whole_reclaiming, r.held AS reclaiming,
        (SELECT SUM(gpus) FROM gpu_group AS g WHERE g.machine_id = c.machine_id) AS gpus
    FROM ({claims}) AS c LEFT JOIN (
        {claims_of_reclaiming}
    ) AS r ON r.machine_id = c.machine_id
) AS m
"""
_CLAIMS: Final = """
SELECT machine_id, MAX(CASE WHEN gpu_id IS NULL THEN 1 ELSE 0 END) AS whole,
    COUNT(DISTINCT gpu_id) AS held
FROM booking AS b WHERE b.held AND b.starts_at <= {now}
    AND (b.gpu_id IS NULL OR b.gpu_id NOT IN ({removed})) AND {also} GROUP BY machine_id
"""
_RECLAIMING: Final = "b.allocation_id IN (SELECT id FROM allocation WHERE state = 'RECLAIMING')"


def claimed_machines() -> str:
    """SQL of the machines on which anything is claimed: `machine_id`, `availability` as `of_machine`
    has it, `whole` (whether all of it is), `held` GPUs, and `gpus`."""
    now = now_ms()
    all_claims, of_reclaiming = (
        _CLAIMS.format(now=now, removed=REMOVED_GPUS, also=also) for also in ("TRUE", _RECLAIMING)
    )
    return _CLAIMED.format(claims=all_claims, claims_of_reclaiming=of_reclaiming)


def machines_that_are(availability: Collection[Availability]) -> Q:
    """The filter of machines whose availability is one of these."""
    available = Availability.AVAILABLE in availability
    # Machines without a claim are in no row: they are found as all but the others.
    wanted = [value for value in Availability if (value in availability) is not available]
    if not wanted:
        return Q(id__isnull=not available)
    listed = ", ".join(f"'{value}'" for value in wanted)
    found = SubSelect(
        f"SELECT machine_id FROM ({claimed_machines()}) AS m WHERE availability IN ({listed})"  # noqa: S608 - values of an enum
    )
    return Q(id__not_in=found) if available else Q(id__in=found)


def free_gpus_of(machine: str) -> str:
    """SQL of how many GPUs of a row of `machine`, by its name in the statement, work and are held by
    no allocation now. Two indexes answer it without looking at the GPUs."""
    held = (
        f'SELECT COUNT(DISTINCT gpu_id) FROM booking AS b WHERE b.machine_id = "{machine}"."id" '  # noqa: S608 - a name and a number of ours
        f"AND b.held AND b.starts_at <= {now_ms()} AND b.gpu_id NOT IN ({USELESS_GPUS})"
    )
    usable = f'SELECT COALESCE(SUM(usable), 0) FROM gpu_group WHERE machine_id = "{machine}"."id"'  # noqa: S608 - a name of ours
    return f"(({usable}) - ({held}))"


#: By machine: its GPUs that work, those of them whose model is as asked, and those that are held.
#: Of machines with GPUs of several kinds the held ones are looked at, of the others only counted.
_WITH_FREE_GPUS: Final = """
SELECT g.machine_id FROM (
    SELECT machine_id, SUM(usable) AS usable, SUM(CASE WHEN {asked} THEN usable ELSE 0 END) AS matching
    FROM gpu_group GROUP BY machine_id
) AS g LEFT JOIN (
    SELECT machine_id, COUNT(DISTINCT CASE WHEN gpu_id NOT IN ({useless}) THEN gpu_id END) AS gpus
    FROM booking AS b WHERE {held} GROUP BY machine_id
) AS h ON h.machine_id = g.machine_id LEFT JOIN (
    SELECT b.machine_id, COUNT(DISTINCT b.gpu_id) AS gpus
    FROM booking AS b JOIN gpu ON gpu.id = b.gpu_id
    WHERE {held} AND {asked} AND gpu.removed_at IS NULL AND gpu.health <> 'UNHEALTHY'
        AND b.machine_id IN (SELECT machine_id FROM gpu_group WHERE gpus > 0
            GROUP BY machine_id HAVING COUNT(*) > 1)
    GROUP BY b.machine_id
) AS s ON s.machine_id = g.machine_id
WHERE g.matching - CASE WHEN g.matching = g.usable THEN COALESCE(h.gpus, 0)
    ELSE COALESCE(s.gpus, 0) END >= {count}
"""


def machines_with_free_gpus(count: int, model: str | None = None) -> SubSelect:
    """Ids of the machines with at least `count` GPUs that work and that are held by no allocation now,
    with `model` as a part of their model, in any case."""
    values = () if model is None else (contains(model),) * 2
    sql = _WITH_FREE_GPUS.format(
        asked="TRUE" if model is None else "LOWER(model) LIKE ? ESCAPE '\\'",
        useless=USELESS_GPUS,
        held=f"b.held AND b.starts_at <= {now_ms()}",
        count=count,
    )
    return SubSelect(sql, *values)

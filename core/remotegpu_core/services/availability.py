"""Who holds what at this moment: derived from what is booked, per GPU and per machine."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, cast

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Booking, Gpu
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


async def claimed_machines() -> dict[uuid.UUID, Availability]:
    """Availability of every machine that is not AVAILABLE."""
    claims = await claims_of(None)
    gpus: dict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)
    rows = await Gpu.filter(machine_id__in=list(claims), removed_at=None).values_list(
        "machine_id", "id"
    )
    for machine_id, gpu_id in cast("list[tuple[uuid.UUID, uuid.UUID]]", rows):
        gpus[machine_id].append(gpu_id)
    found = {
        machine_id: of_machine(claimed, gpus[machine_id]) for machine_id, claimed in claims.items()
    }
    return {key: value for key, value in found.items() if value is not Availability.AVAILABLE}

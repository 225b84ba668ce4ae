"""What there is to allocate, and from when it is free: read for `placement`."""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from tortoise.queryset import QuerySet

from remotegpu_core.models import Booking, Gpu, Machine, Occupancy
from remotegpu_core.services.access import granted_to
from remotegpu_core.services.allocations.placement import Host, Slot
from remotegpu_core.services.allocations.reason import Reason, ReasonCode
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.states import Health, Lifecycle, Presence
from remotegpu_protocol.inventory import IsolationKind
from remotegpu_protocol.kinds import ALLOCATION_END, ALLOCATION_START, ALLOCATION_UPDATE

#: Kinds of command that the whole life of an allocation takes: a host that would refuse one of them
#: later gets no allocation now.
NEEDED_KINDS: Final = (ALLOCATION_START.name, ALLOCATION_UPDATE.name, ALLOCATION_END.name)

_OUT: Final = {
    Lifecycle.MAINTENANCE: "The machine is in maintenance",
    Lifecycle.QUARANTINED: "The machine is quarantined",
    Lifecycle.RETIRED: "The machine is retired",
}


def granted_machines(user_id: uuid.UUID) -> QuerySet[Machine]:
    """Machines that a user may have for themself: granted to them or to a workspace of theirs."""
    return Machine.filter(granted_to(user_id))


async def read_hosts(
    machines: QuerySet[Machine], request: AllocateRequest, starts_at: int, *, now: bool
) -> list[Host]:
    """`machines`, which are few, with what is taken on them and what is in the way of the request.

    A whole fleet is searched by `candidates`.
    """
    shared = request.gpu_count > 0
    rows = await machines
    ids = [row.id for row in rows]
    if not ids:
        return []
    gpus: dict[uuid.UUID, list[Gpu]] = defaultdict(list)
    for gpu in await Gpu.filter(machine_id__in=ids, removed_at=None).order_by("index", "uuid"):
        gpus[gpu.machine_id].append(gpu)
    taken = await _taken_until(ids, starts_at, request.ends_at)
    occupied = set(
        await Occupancy.filter(machine_id__in=ids, closed_at=None).values_list(
            "machine_id", "resource_id"
        )
    )
    whole = {machine_id for machine_id, _ in occupied}
    until: dict[uuid.UUID, int] = {}
    for (machine_id, _), ends_at in taken.items():
        until[machine_id] = max(ends_at, until.get(machine_id, ends_at))
    return [
        Host(
            machine_id=row.id,
            name=row.name,
            slots=tuple(
                Slot(
                    gpu_id=gpu.id,
                    index=gpu.index,
                    model=gpu.model,
                    memory=gpu.memory_total or 0,
                    usable=gpu.health is not Health.UNHEALTHY,
                    free_from=taken.get((row.id, gpu.id), starts_at),
                    occupied=(row.id, gpu.id) in occupied,
                )
                for gpu in gpus[row.id]
            ),
            free_from=until.get(row.id, starts_at),
            occupied=row.id in whole,
            obstacles=tuple(obstacles(row, now=now, shared=shared)),
            failed_starts=row.failed_starts,
        )
        for row in rows
    ]


def obstacles(machine: Machine, *, now: bool, shared: bool) -> list[Reason]:
    """What keeps a new allocation off a machine: at this moment, or at any.

    `shared`: it is of GPUs of the machine, and not of all of it.
    """
    found = []
    if machine.lifecycle is not Lifecycle.IN_SERVICE:
        why = f": {machine.lifecycle_reason}" if machine.lifecycle_reason else ""
        found.append(Reason(ReasonCode.MACHINE_OUT_OF_SERVICE, f"{_OUT[machine.lifecycle]}{why}."))
    if machine.draining:
        found.append(
            Reason(ReasonCode.MACHINE_DRAINING, "The machine is drained: it takes nothing new.")
        )
    found += refusals(machine.host, shared=shared)
    if now:
        found += absences(machine)
    return found


def refusals(host: Mapping[str, Any], *, shared: bool) -> list[Reason]:
    """Why a host does not let itself be allocated, as its inventory says.

    `Machine.allocatable` and `shareable` keep the answer for searches, from one inventory to the
    next.
    """
    found = []
    policy = host.get("policy") or {}
    disabled = [kind for kind in NEEDED_KINDS if kind not in policy.get("commands", [])]
    if disabled:
        found.append(Reason(ReasonCode.NOT_ENABLED, _disabled(disabled)))
    isolation = host.get("gpu_isolation") or {}
    if shared and isolation.get("kind") == IsolationKind.WHOLE_MACHINE_ONLY:
        why = isolation.get("reason") or "It cannot keep GPUs apart."
        found.append(
            Reason(ReasonCode.NOT_SHARED, f"The host can only be allocated as a whole. {why}")
        )
    if unprovable := host.get("cleaning_obstacles"):
        found.append(
            Reason(
                ReasonCode.NOT_PROVABLE,
                f"The host could not prove that it was cleaned afterwards. {' '.join(unprovable)}",
            )
        )
    return found


def _disabled(kinds: Sequence[str]) -> str:
    if len(kinds) == len(NEEDED_KINDS):
        first = "The host is monitored only"
    else:
        first = f"The host could not carry out the whole of an allocation, {', '.join(kinds)} is missing"
    needed = f"{', '.join(NEEDED_KINDS[:-1])} and {NEEDED_KINDS[-1]}"
    return f"{first}: its policy file must enable {needed}."


def absences(machine: Machine) -> list[Reason]:
    """What keeps anything from starting on a machine at this moment."""
    found = []
    if machine.presence is not Presence.ONLINE:
        found.append(Reason(ReasonCode.MACHINE_OFFLINE, f"The machine is {machine.presence}."))
    if machine.command_hold is not None:
        found.append(
            Reason(
                ReasonCode.HOST_NOT_ACCEPTED,
                "Nothing is sent to the host until an admin accepts it.",
            )
        )
    return found


async def _taken_until(
    machine_ids: list[uuid.UUID], starts_at: int, ends_at: int
) -> dict[tuple[uuid.UUID, uuid.UUID], int]:
    """When the last booking ends that overlaps, by machine and resource."""
    rows = cast(
        "list[tuple[uuid.UUID, uuid.UUID, int]]",
        await Booking.filter(
            machine_id__in=machine_ids, held=True, starts_at__lt=ends_at, ends_at__gt=starts_at
        ).values_list("machine_id", "resource_id", "ends_at"),
    )
    taken: dict[tuple[uuid.UUID, uuid.UUID], int] = {}
    for machine_id, resource_id, until in rows:
        taken[machine_id, resource_id] = max(until, taken.get((machine_id, resource_id), until))
    return taken

"""What time does to allocations: they start, are placed, are warned of, and end.

Every replica may do all of it at once: each move is made within a ledger by whoever finds it still
to be made. While the clock is doubted, none is made: its time may not have come.
"""

import json
import uuid
from typing import Final, cast

from tortoise.expressions import Q

from remotegpu_core.actor import SYSTEM
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Machine, User
from remotegpu_core.services import audit, freeze
from remotegpu_core.services.allocations import lifecycle
from remotegpu_core.services.allocations.allocate import settle_in
from remotegpu_core.services.allocations.beneficiary import Beneficiary
from remotegpu_core.services.allocations.capacity import obstacles
from remotegpu_core.services.allocations.lifecycle import ALLOCATE
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.allocations.placement import Placement, Refused
from remotegpu_core.services.allocations.reason import ReasonCode
from remotegpu_core.services.allocations.release import call_off
from remotegpu_core.services.allocations.request import wished
from remotegpu_core.services.allocations.search import look
from remotegpu_core.services.ledger import ledger
from remotegpu_core.states import AllocationState, OperationState

#: Allocations moved in one round; the next round takes the rest.
_AT_ONCE: Final = 200

_NEVER_STARTED: Final = ("NEVER_STARTED", "Its time was over before it could start.")


async def expire_due() -> int:
    """End what has come to its end, and return how many did.

    In a freeze only what no host was told of: the rest stays with its users until it is over.
    """
    if await freeze.is_clock_doubted():
        return 0
    over = Allocation.filter(
        state__in=[AllocationState.PENDING, AllocationState.ACTIVE], ends_at__lte=now_ms()
    )
    if await freeze.is_frozen():
        over = over.filter(generation=0)
    return sum([await _expire(*one) for one in await _some(over, "ends_at")])


async def start_due() -> int:
    """Begin reservations whose time has come and whose GPUs are free; return how many."""
    if await freeze.is_clock_doubted():
        return 0
    now = now_ms()
    due = Allocation.filter(
        state=AllocationState.PENDING,
        machine_id__not_isnull=True,
        generation=0,
        starts_at__lte=now,
        ends_at__gt=now,
    )
    return sum([await _start(*one) for one in await _some(due, "starts_at")])


async def place_queue() -> int:
    """Find places for what waits for one, first come first served; return how many got one.

    A machine that would do for somebody who still waits is kept from those behind them.
    """
    if await freeze.is_clock_doubted():
        return 0
    waiting = (
        await Allocation.filter(
            state=AllocationState.PENDING, machine_id=None, ends_at__gt=now_ms()
        )
        .order_by("created_at", "id")
        .limit(_AT_ONCE)
    )
    placed, kept = 0, set[uuid.UUID]()
    #: Wishes that came to nothing, and why: all that could serve them is kept by now.
    refused: dict[str, str | None] = {}
    for allocation in waiting:
        wish = _wish_of(allocation)
        if wish not in refused:
            found = await _look(allocation, kept)
            if isinstance(found, Placement):
                placed += await _place(allocation, found)
                continue
            kept |= found.could_serve
            refused[wish] = found.unmet
        await _note_unmet(allocation, refused[wish])
    return placed


async def warn_due(warnings: list[int]) -> int:
    """Tell of ends that are near: `warnings` in seconds before them. Returns how many."""
    if await freeze.is_clock_doubted():
        return 0
    told = 0
    for seconds in sorted(warnings):
        notice = seconds * 1000
        now = now_ms()
        near = Allocation.filter(
            Q(warned=None) | Q(warned__gt=notice),
            state=AllocationState.ACTIVE,
            ends_at__gt=now,
            ends_at__lte=now + notice,
        )
        for allocation_id, _machine_id in await _some(near, "ends_at"):
            told += await _warn(allocation_id, notice)
    return told


async def _some(query, order: str) -> list[tuple[uuid.UUID, uuid.UUID | None]]:  # type: ignore[no-untyped-def]  # a query set of allocations
    rows = await query.order_by(order, "id").limit(_AT_ONCE).values_list("id", "machine_id")
    return cast("list[tuple[uuid.UUID, uuid.UUID | None]]", rows)


async def _expire(allocation_id: uuid.UUID, machine_id: uuid.UUID | None) -> bool:
    async with ledger(machine_id):
        allocation = await Allocation.get(id=allocation_id)
        if (
            allocation.machine_id != machine_id
            or allocation.ends_at > now_ms()
            or allocation.state not in {AllocationState.PENDING, AllocationState.ACTIVE}
        ):
            return False
        if allocation.state is AllocationState.ACTIVE:
            await lifecycle.reclaim(allocation)
        elif not await call_off(allocation, error=_NEVER_STARTED):
            await lifecycle.reclaim(allocation, error=_NEVER_STARTED)
            await lifecycle.finish(
                allocation.id, ALLOCATE, OperationState.FAILED, error=_NEVER_STARTED
            )
        await audit.record(SYSTEM, "expireAllocation", target=("Allocation", allocation.id))
    return True


async def _start(allocation_id: uuid.UUID, machine_id: uuid.UUID | None) -> bool:
    async with ledger(machine_id) as machine:
        allocation = await Allocation.get(id=allocation_id)
        if (
            machine is None
            or allocation.state is not AllocationState.PENDING
            or allocation.generation
            or not can_start(machine, shared=not allocation.whole_machine)
        ):
            return False
        now = now_ms()
        if not allocation.starts_at <= now < allocation.ends_at:
            return False
        return await lifecycle.begin(allocation, machine)


def can_start(machine: Machine, *, shared: bool) -> bool:
    """Whether what was promised on a machine can start: a drained one keeps its promises."""
    in_the_way = {reason.code for reason in obstacles(machine, now=True, shared=shared)}
    return in_the_way <= {ReasonCode.MACHINE_DRAINING}


def _wish_of(allocation: Allocation) -> str:
    """What tells wishes apart that different machines could serve."""
    wish = {**(allocation.requirement or {}), "unmet": None}
    later = allocation.starts_at > now_ms()
    whose = allocation.user_id if wish.get("bound", True) else None
    return f"{json.dumps(wish, sort_keys=True)} {whose} {later}"


async def _look(
    allocation: Allocation, kept: set[uuid.UUID], *, only: uuid.UUID | None = None
) -> Placement | Refused:
    now = now_ms()
    wish = allocation.requirement or {}
    request = wished(wish, starts_at=max(now, allocation.starts_at), ends_at=allocation.ends_at)
    user = await User.get(id=allocation.user_id)
    whose = Beneficiary(user, allocation.workspace_id, bound=wish.get("bound", True))
    return await look(whose, request, only=only, but=kept)


async def _note_unmet(allocation: Allocation, unmet: str | None) -> None:
    """Keep the reason with the wish, for whoever asks why it waits."""
    wish = allocation.requirement or {}
    if wish.get("unmet") != unmet:
        await Allocation.filter(
            id=allocation.id, state=AllocationState.PENDING, machine_id=None
        ).update(requirement=wish | {"unmet": unmet})


async def _place(allocation: Allocation, placement: Placement) -> bool:
    async with ledger(placement.machine_id) as machine:
        allocation = await Allocation.get(id=allocation.id)
        waits = allocation.state is AllocationState.PENDING and allocation.machine_id is None
        if not waits or machine is None or allocation.ends_at <= now_ms():
            return False
        found = await _look(allocation, set(), only=machine.id)
        if not isinstance(found, Placement):
            # Another replica was faster: in the next round.
            return False
        allocation.machine_id = machine.id
        allocation.gpu_count = len(found.gpu_ids)
        allocation.starts_at = max(now_ms(), allocation.starts_at)
        await allocation.save(update_fields=["machine_id", "gpu_count", "starts_at"])
        await settle_in(allocation, found, machine)
    return True


async def _warn(allocation_id: uuid.UUID, notice: int) -> bool:
    async with ledger():
        allocation = await Allocation.get(id=allocation_id)
        now = now_ms()
        if (
            allocation.state is not AllocationState.ACTIVE
            or not now < allocation.ends_at <= now + notice
            or (allocation.warned is not None and allocation.warned <= notice)
        ):
            return False
        allocation.warned = notice
        await allocation.save(update_fields=["warned"])
        # One that is no longer than the notice knows when it ends.
        if allocation.ends_at - notice < allocation.starts_at:
            return False
        await record_event(allocation.id, EventKind.ENDING_SOON)
    return True

"""Who holds GPU memory: processes of live samples, by the accounts that allocations have."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, cast

from remotegpu_core.actor import Actor
from remotegpu_core.bus.bus import Bus
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_core.services.allocations.reading import usernames, visible_allocations
from remotegpu_core.states import AllocationState
from remotegpu_protocol.values import MAX_SAFE_INTEGER

#: The user of each POSIX account of a machine.
Accounts = Mapping[str, uuid.UUID]

#: States in which processes of an allocation may run.
_RUNNING: Final = (AllocationState.ACTIVE, AllocationState.RECLAIMING)

#: Machines whose samples are read at once, so that nothing else waits for all of them.
_AT_ONCE: Final = 50

#: Users that a list of them has at most.
MAX_USERS: Final = 100


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """What one user's processes hold: bytes, GPUs and processes, where the driver tells bytes."""

    user_id: uuid.UUID
    username: str
    memory_used: int
    gpus: int
    processes: int


@dataclass(slots=True)
class _Sum:
    memory_used: int = 0
    gpus: int = 0
    processes: int = 0


async def accounts_on(
    actor: Actor, machine_ids: Collection[uuid.UUID] | None
) -> dict[uuid.UUID, dict[str, uuid.UUID]]:
    """Accounts by machine, of `machine_ids` or of all: only those of allocations that the caller may
    see."""
    if not actor.is_signed_in:
        return {}
    running = visible_allocations(actor).filter(
        state__in=list(_RUNNING), machine_id__not_isnull=True
    )
    if machine_ids is not None:
        running = running.filter(machine_id__in=list(machine_ids))
    found: dict[uuid.UUID, dict[str, uuid.UUID]] = defaultdict(dict)
    rows = cast(
        "list[tuple[uuid.UUID, uuid.UUID, uuid.UUID]]",
        await running.values_list("machine_id", "id", "user_id"),
    )
    for machine_id, allocation_id, user_id in rows:
        found[machine_id][account_name(allocation_id)] = user_id
    return dict(found)


async def gpu_memory_by_user(actor: Actor, bus: Bus) -> list[GpuMemory]:
    """Users whose processes hold GPU memory now, the one with most first, at most `MAX_USERS`.

    Of allocations that the caller may see, on machines that have a live sample.
    """
    accounts = await accounts_on(actor, None)
    machine_ids = list(accounts)
    sums: dict[uuid.UUID, _Sum] = defaultdict(_Sum)
    for first in range(0, len(machine_ids), _AT_ONCE):
        live = await bus.live(machine_ids[first : first + _AT_ONCE])
        # Redis's stand-in answers at once, without a turn for others.
        await asyncio.sleep(0)
        for machine_id, known in live.items():
            for gpu in known.sample.metrics.gpus if known.sample else ():
                on_this: set[uuid.UUID] = set()
                for process in gpu.processes or ():
                    user_id = accounts[machine_id].get(process.username or "")
                    if user_id is None or process.memory_used is None:
                        continue
                    on_this.add(user_id)
                    sums[user_id].memory_used += process.memory_used
                    sums[user_id].processes += 1
                for user_id in on_this:
                    sums[user_id].gpus += 1
    most = sorted(sums.items(), key=lambda item: (-item[1].memory_used, item[0]))[:MAX_USERS]
    names = await usernames([user_id for user_id, _ in most])
    return [
        GpuMemory(
            user_id,
            names[user_id],
            min(found.memory_used, MAX_SAFE_INTEGER),
            found.gpus,
            found.processes,
        )
        for user_id, found in most
        if user_id in names
    ]

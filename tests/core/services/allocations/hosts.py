"""Machines that can be allocated, and what their agents would answer."""

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Booking, Command, Gpu, Machine, Occupancy
from remotegpu_core.services import commands
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.outcomes import apply_outcome
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_core.services.grants import grant_machine
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.ledger import ledger
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState
from remotegpu_protocol.inventory import GpuInventory, Policy
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport
from remotegpu_protocol.surfaces import SURFACES, Surface
from tests.core.hosts import inventory, make_online

POLICY = Policy(
    commands=["allocation.start", "allocation.update", "allocation.end"], simulated=True
)
MINUTE = 60_000
GIB = 2**30

CLEAN_SURFACES = [
    CleanedSurface(surface, "removed", found=2, removed=2, verified=True, detail="made up")
    for surface in SURFACES
]
CLEAN = CleaningReport(performed=True, verified=True, simulated=True, items=CLEAN_SURFACES)
NOT_CLEANED = CleaningReport(performed=False)


@dataclasses.dataclass
class Host:
    machine: Machine
    epoch: int
    gpus: list[Gpu]

    @property
    def id(self) -> uuid.UUID:
        return self.machine.id

    def gpu(self, *indexes: int) -> tuple[uuid.UUID, ...]:
        return tuple(self.gpus[index].id for index in indexes)


async def make_host(
    name: str,
    gpus: int = 2,
    *,
    memory: int = 80 * GIB,
    model: str = "NVIDIA H100",
    policy: Policy = POLICY,
    grant: Sequence[Actor] = (),
) -> Host:
    """A machine that is online and lets itself be allocated."""
    machine, epoch = await make_online(name)
    host = Host(machine, epoch, [])
    await report(host, gpus, memory=memory, model=model, policy=policy)
    for actor in grant:
        await grant_machine(SYSTEM, machine.id, user_id=actor.user_id, workspace_id=None)
    return host


async def report(
    host: Host,
    gpus: int,
    *,
    memory: int = 80 * GIB,
    model: str = "NVIDIA H100",
    policy: Policy = POLICY,
) -> None:
    """Have an inventory with so many GPUs applied."""
    found = [
        GpuInventory(index, f"GPU-{host.machine.name}-{index}", model, memory)
        for index in range(gpus)
    ]
    await apply_inventory(host.id, host.epoch, inventory(*found, policy=policy))
    host.machine = await Machine.get(id=host.id)
    host.gpus = await Gpu.filter(machine_id=host.id, removed_at=None).order_by("index")


def asking(
    host: Host | None = None, *, length: int = 60 * MINUTE, **values: Any
) -> AllocateRequest:
    """A request for `host`, or for whatever fits, that begins now unless it says otherwise."""
    starts_at = values.get("starts_at") or now_ms()
    given: dict[str, Any] = {"ends_at": starts_at + length, **values}
    if host is not None:
        given["machine_id"] = host.id
    return AllocateRequest(**given)


def any_gpus(count: int | None = 1, **values: Any) -> Requirement:
    return Requirement(gpu_count=count, **values)


async def get(
    actor: Actor, settings: Settings, host: Host | None = None, **values: Any
) -> Allocation:
    """Allocate, as `asking`."""
    allocation, _ = await allocate(actor, settings, asking(host, **values))
    return allocation


async def waiting(allocation: Allocation, kind: str | None = None) -> list[Command]:
    """Commands about an allocation that its host has not finished."""
    query = Command.filter(allocation_id=allocation.id, state__in=list(commands.OPEN))
    return await (query.filter(kind=kind) if kind else query).order_by("sequence")


async def answer(
    command: Command,
    state: CommandState = CommandState.SUCCEEDED,
    *,
    result: msgspec.Struct | None = None,
) -> bool:
    """The host says how a command ended, as an event of its journal would be applied."""
    async with ledger(command.machine_id):
        await commands.mark_sent([command.id])
        packed = None if result is None else msgspec.to_builtins(result)
        error = None if state is CommandState.SUCCEEDED else ("TRIED", "it did not work")
        if not await commands.move(command.id, state, result=packed, error=error):
            return False
        await apply_outcome(await Command.get(id=command.id))
    return True


def dirty(surface: Surface, detail: str | None = None) -> CleaningReport:
    """A report in which everything is clean but this surface, where one of two things is left."""
    left = CleanedSurface(surface, "removed", found=2, removed=1, verified=False, detail=detail)
    items = [left if item.surface == surface else item for item in CLEAN_SURFACES]
    return CleaningReport(performed=True, simulated=True, items=items)


async def carry_out(allocation: Allocation, report: CleaningReport = CLEAN) -> Allocation:
    """The host does everything that it was told about an allocation."""
    for command in await waiting(allocation):
        ends = command.kind == "allocation.end"
        await answer(command, result=report if ends else None)
    return await Allocation.get(id=allocation.id)


async def active(actor: Actor, settings: Settings, host: Host, **values: Any) -> Allocation:
    allocation = await carry_out(await get(actor, settings, host, **values))
    assert allocation.state is AllocationState.ACTIVE
    return allocation


async def shift(allocation: Allocation, by: int) -> None:
    """As if `by` milliseconds more had passed for it."""
    row = await Allocation.get(id=allocation.id)
    values = {"starts_at": row.starts_at - by, "ends_at": row.ends_at - by}
    await Allocation.filter(id=row.id).update(**values)
    for booking in await Booking.filter(allocation_id=row.id):
        await Booking.filter(id=booking.id).update(
            starts_at=booking.starts_at - by, ends_at=booking.ends_at - by
        )


async def open_occupancies(host: Host) -> list[Occupancy]:
    return await Occupancy.filter(machine_id=host.id, closed_at=None)

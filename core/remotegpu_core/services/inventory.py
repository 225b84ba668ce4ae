"""Applying what a host says it is made of."""

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import machine_actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Gpu, Machine, Outcome
from remotegpu_core.services import audit, gpu_claims, quarantine
from remotegpu_core.services.addresses.claims import arrange
from remotegpu_core.services.addresses.quarantine import judge
from remotegpu_core.services.allocations.bookings import join_whole_machines
from remotegpu_core.services.allocations.capacity import refusals
from remotegpu_core.services.allocations.starts import told
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.hardware import meet
from remotegpu_core.services.holdings import judge_holdings
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import Health
from remotegpu_protocol.grammar import hardware_uuid
from remotegpu_protocol.inventory import (
    DriverState,
    GpuHealth,
    GpuInventory,
    HostInventory,
    Inventory,
)
from remotegpu_protocol.kinds import ACCOUNT_KEYS

#: How often somebody else's hardware may come in between before it is an error.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """`stale`: a newer connection exists and nothing was written. `refused`: texts for the host."""

    stale: bool = False
    refused: list[str] = field(default_factory=list)


async def apply_inventory(
    machine_id: uuid.UUID, epoch: int, inventory: Inventory, *, reasons: Sequence[str] = ()
) -> Applied:
    """Make the machine's rows what its host says, if `epoch` is still its newest connection.

    GPUs that another machine has are claims (`services.gpu_claims`) and explained; the rest is
    applied. Addresses that another one has, and its hardware UUID, quarantine this one. `reasons`
    are further texts that make the machine DEGRADED.
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(IntegrityError):
            return await _apply(machine_id, epoch, inventory, reasons)
        # Another machine registered the same hardware between our look and our write. Now that
        # it is there, the look finds it.
    return await _apply(machine_id, epoch, inventory, reasons)


async def _apply(
    machine_id: uuid.UUID, epoch: int, inventory: Inventory, reasons: Sequence[str]
) -> Applied:
    now = now_ms()
    async with transaction():
        machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
        if machine is None or machine.epoch != epoch:
            return Applied(stale=True)
        host = msgspec.to_builtins(inventory.host)
        changed, refused = await _apply_gpus(machine, inventory.gpus, now)
        hardware = await meet(machine, hardware_uuid(inventory.host.hardware_uuid))
        failed_start = told(machine)
        remembered = [] if failed_start is None else [failed_start]
        health, why = _health(inventory, [*remembered, *reasons, *refused])
        health_changed = (health, why) != (machine.health, machine.health_reasons)
        changed = changed or host != machine.host
        await Machine.filter(id=machine_id, epoch=epoch).update(
            host=host,
            allocatable=not refusals(host, shared=False),
            shareable=not refusals(host, shared=True),
            health=health,
            health_reasons=why,
            inventory_at=now,
        )
        if refused and health_changed:
            await audit.record(
                machine_actor(machine_id),
                "reportInventory",
                target=("Machine", machine_id),
                outcome=Outcome.FAILED,
                details={"machine": machine.name, "reason": " ".join(refused)},
            )
        if inventory.host.records_damaged is not None:
            # It does not end with another inventory: without the record the agent knows of nobody.
            await quarantine.add(
                machine_id,
                CauseCode.RECORDS_DAMAGED,
                inventory.host.records_damaged,
                actor=machine_actor(machine_id),
            )
        await judge_holdings(machine_id, inventory.host.allocations)
        # After everything that waits for other machines' rows: it locks the counter of changes.
        if await arrange(machine_id, host):
            changed = True
            await judge(machine_id, machine_actor(machine_id))
        if changed:
            await record_change(machine_id, ChangeKind.INVENTORY_CHANGED)
        if health_changed:
            await record_change(machine_id, ChangeKind.HEALTH_CHANGED)
        if changed:
            await join_whole_machines(machine_id)
    return Applied(refused=refused if hardware is None else [hardware, *refused])


async def _apply_gpus(
    machine: Machine, reported: Sequence[GpuInventory], now: int
) -> tuple[bool, list[str]]:
    """Returns whether rows changed, and texts about GPUs that could not be taken."""
    uuids = [gpu.uuid for gpu in reported]
    known = {gpu.uuid: gpu for gpu in await Gpu.filter(machine_id=machine.id)}
    taken = {
        gpu.uuid: gpu.machine_id
        for gpu in await Gpu.filter(uuid__in=uuids, removed_at=None).exclude(machine_id=machine.id)
    }
    changed, conflicts = False, []
    seen: set[str] = set()
    # In one order, so that two machines that report the same cards do not wait for one another.
    for gpu in sorted(reported, key=lambda gpu: gpu.uuid):
        if gpu.uuid in seen:
            conflicts.append(f"GPU {gpu.uuid} is reported twice.")
            continue
        seen.add(gpu.uuid)
        row = known.get(gpu.uuid)
        values = {
            "index": gpu.index,
            "model": gpu.model,
            "memory_total": gpu.memory_total,
            "health": Health(gpu.health),
            "health_reason": gpu.health_reason,
            "details": msgspec.to_builtins(gpu),
            "removed_at": None,
            "claimed_at": None,
        }
        if gpu.uuid in taken:
            conflicts.append(gpu_claims.claimed(gpu.uuid))
            claimed_at = now if row is None or row.claimed_at is None else row.claimed_at
            removed_at = now if row is None or row.removed_at is None else row.removed_at
            values |= {"claimed_at": claimed_at, "removed_at": removed_at}
        elif row is not None and row.disputed_at is not None:
            conflicts.append(gpu_claims.disputed(gpu.uuid))
            del values["health"], values["health_reason"]
        elif row is not None and row.removed_at is not None:
            values["created_at"] = gpu_claims.had_since(row, now)
        if row is None:
            await Gpu.create(machine_id=machine.id, uuid=gpu.uuid, created_at=now, **values)
            changed = True
        elif any(getattr(row, name) != value for name, value in values.items()):
            await Gpu.filter(id=row.id).update(**values)
            changed = True
    gone = [row.id for uuid_, row in known.items() if uuid_ not in seen and row.removed_at is None]
    if gone:
        await Gpu.filter(id__in=gone).update(removed_at=now, disputed_at=None)
        changed = True
    given_up = [uuid_ for uuid_, row in known.items() if uuid_ not in seen and row.claimed_at]
    if given_up:
        await Gpu.filter(machine_id=machine.id, uuid__in=given_up).update(claimed_at=None)
    return changed, conflicts


def _health(inventory: Inventory, problems: Sequence[str]) -> tuple[Health, list[str]]:
    why = list(problems)
    if inventory.host.driver_state is DriverState.FAILED:
        why.append(inventory.host.driver_message or "The NVIDIA driver does not work.")
    why += _sign_in(inventory.host)
    states = [gpu.health for gpu in inventory.gpus]
    why += [
        f"GPU {gpu.index}: {gpu.health_reason or gpu.health.lower()}"
        for gpu in inventory.gpus
        if gpu.health is not GpuHealth.HEALTHY
    ]
    if states and all(state is GpuHealth.UNHEALTHY for state in states):
        return Health.UNHEALTHY, why
    return (Health.DEGRADED if why else Health.HEALTHY), why


def _sign_in(host: HostInventory) -> list[str]:
    """Why allocations here could not be signed in to, where the host would make accounts."""
    makes_accounts = host.policy is not None and ACCOUNT_KEYS.name in host.policy.commands
    if not makes_accounts or host.ssh is None or host.ssh.refusal is None:
        return []
    return [f"Allocations cannot be signed in to by SSH: {host.ssh.refusal}"]

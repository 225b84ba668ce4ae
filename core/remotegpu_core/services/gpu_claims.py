"""GPUs that two machines' hosts report, and who has them.

One machine has a GPU. What another one reports of it is a claim: a row that counts as removed. A claim
against one that is established changes nothing for that; of two that are equal, neither may use the
GPU until an admin decides, or one of the hosts reports without it. A machine that reports without a GPU
for a short time, as after a failed driver, does not lose what spoke for it.
"""

import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, NotFound
from remotegpu_core.models import Booking, Gpu, Machine, Outcome
from remotegpu_core.services import audit
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.allocations.bookings import join_whole_machines
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.claims import Standing, is_established
from remotegpu_core.states import Health
from remotegpu_protocol.grammar import clean_text, shorten

#: Rows that are read by one query.
_AT_ONCE: Final = 500

_DISPUTED: Final = (
    "Another machine reports this GPU too. It is not given to anybody until an admin says which one "
    "has it (assignGpu), or one of the two reports without it."
)


def disputed(gpu_uuid: str) -> str:
    """As it stands in the reasons of a machine's health."""
    return f"GPU {gpu_uuid}: {_DISPUTED}"


def claimed(gpu_uuid: str) -> str:
    """As it stands in the reasons of the health of the machine that does not have it."""
    return (
        f"GPU {gpu_uuid} is registered in another machine: it is counted here once that machine "
        "reports without it or is retired, or an admin says that it is here (assignGpu)."
    )


def told_health(row: Gpu) -> dict[str, Any]:
    """The health of a GPU: as its host reports it, but for one that two machines report."""
    if row.disputed_at is not None:
        return {"health": Health.UNHEALTHY, "health_reason": _DISPUTED}
    return {
        "health": Health(row.details.get("health", Health.HEALTHY)),
        "health_reason": row.details.get("health_reason"),
    }


def had_since(row: Gpu, now: int) -> int:
    """Since when the machine has the GPU, if it has it again from `now` on."""
    return row.created_at if _had_it_for_long(row, now) else now


async def settle() -> int:
    """Have claims and those who have the GPU agree, and return how many GPUs changed.

    Called every few seconds by one replica: an inventory changes no other machine.
    """
    changed = 0
    async for gpu_uuid, machine_ids in _unsettled():
        async with transaction():
            await _lock(machine_ids)
            changed += await _settle(gpu_uuid)
    return changed


async def assign(actor: Actor, machine_id: uuid.UUID, gpu_uuid: str) -> Gpu:
    """Say that a GPU is in this machine, although other machines report it; admins only.

    Raises:
        NotFound: the machine's host does not report it.
        Conflict: an allocation has it, or has booked it, in the machine that has it until now.
    """
    actor.require_admin()
    await visible_machine(actor, machine_id, field="machineId")
    known = [row.machine_id for row in await Gpu.filter(uuid=gpu_uuid)]
    async with transaction():
        machines = await _lock([*known, machine_id])
        rows = await _reported(gpu_uuid)
        chosen = next((row for row in rows if row.machine_id == machine_id), None)
        if chosen is None:
            raise NotFound(
                f"The host of this machine reports no GPU {shorten(clean_text(gpu_uuid))!r}.",
                field="uuid",
            )
        holder = next((row for row in rows if row.removed_at is None), None)
        if holder is not None and holder.id != chosen.id:
            if await _is_booked(holder):
                raise Conflict(
                    f"An allocation has this GPU, or has booked it, in the machine "
                    f"{machines[holder.machine_id].name!r}: release it first.",
                    field="uuid",
                )
            await _demote(holder)
        if chosen.removed_at is not None:
            await _promote(chosen)
        await Gpu.filter(uuid=gpu_uuid).update(decided_at=None)
        await Gpu.filter(id=chosen.id).update(decided_at=now_ms())
        await audit.record(
            actor,
            "assignGpu",
            target=("Machine", machine_id),
            details={
                "machine": machines[machine_id].name,
                "gpu": gpu_uuid,
                "before": machines[holder.machine_id].name if holder is not None else "",
            },
        )
        await _settle(gpu_uuid)
    return await Gpu.get(id=chosen.id)


async def _unsettled() -> AsyncIterator[tuple[str, list[uuid.UUID]]]:
    """UUIDs of GPUs about which something may have to change, and the machines with a row of one.

    All claims are looked at, however many there are: hostile ones keep no other from being settled.
    """
    for condition in ({"claimed_at__not_isnull": True}, {"disputed_at__not_isnull": True}):
        after = ""
        while True:
            page = Gpu.filter(**condition, uuid__gt=after).order_by("uuid").limit(_AT_ONCE)
            uuids = [str(found) for found in await page.values_list("uuid", flat=True)]
            if not uuids:
                break
            after = uuids[-1]
            by_uuid: dict[str, list[Gpu]] = {}
            for row in await Gpu.filter(uuid__in=list(set(uuids))).order_by("id"):
                by_uuid.setdefault(row.uuid, []).append(row)
            for gpu_uuid, rows in sorted(by_uuid.items()):
                if not _is_settled(rows):
                    yield gpu_uuid, [row.machine_id for row in rows]


def _is_settled(rows: Sequence[Gpu]) -> bool:
    """Whether nothing is to change, as these rows alone show it. Bookings are not read."""
    holder = next((row for row in rows if row.removed_at is None), None)
    claims = [row for row in rows if row.claimed_at is not None]
    if holder is None or not claims:
        return not claims and (holder is None or holder.disputed_at is None)
    held = _standing(holder, claims)
    if any(_claimed(claim) > held for claim in claims):
        return False
    return (held is Standing.CLAIMED) is (holder.disputed_at is not None)


async def _lock(machine_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Machine]:
    """In one order, so that two that lock several do not wait for one another."""
    rows = Machine.filter(id__in=list(set(machine_ids))).order_by("id").select_for_update()
    return {row.id: row for row in await rows}


async def _reported(gpu_uuid: str) -> list[Gpu]:
    rows = await Gpu.filter(uuid=gpu_uuid).order_by("id")
    return [row for row in rows if row.removed_at is None or row.claimed_at is not None]


async def _settle(gpu_uuid: str) -> int:
    """The machines are locked."""
    rows = await _reported(gpu_uuid)
    holder = next((row for row in rows if row.removed_at is None), None)
    claims = [row for row in rows if row.claimed_at is not None]
    if holder is None:
        if not claims:
            return 0
        holder, *claims = sorted(claims, key=lambda row: (-_claimed(row), row.claimed_at))
        holder = await _promote(holder)
        changed = 1
    else:
        changed = 0
    held = _standing(holder, claims) if claims else Standing.DECIDED
    stronger = max(claims, key=_claimed, default=None)
    is_stronger = stronger is not None and _claimed(stronger) > held
    if stronger is not None and is_stronger and await _gives_way(holder, stronger):
        await _demote(holder)
        await _promote(stronger)
        # What gave way does not get it back by this look: see `_gives_way`.
        return 1 + await _settle(gpu_uuid)
    is_disputed = is_stronger or held is Standing.CLAIMED
    if is_disputed is (holder.disputed_at is not None):
        return changed
    holder.disputed_at = now_ms() if is_disputed else None
    values = told_health(holder)
    await Gpu.filter(id=holder.id).update(disputed_at=holder.disputed_at, **values)
    await _tell(holder.machine_id, disputed(gpu_uuid), is_so=is_disputed)
    if is_disputed:
        await audit.record(
            SYSTEM,
            "disputeGpu",
            target=("Machine", holder.machine_id),
            outcome=Outcome.FAILED,
            details={"gpu": gpu_uuid},
        )
    await record_change(holder.machine_id, ChangeKind.INVENTORY_CHANGED)
    return 1


async def _gives_way(holder: Gpu, claim: Gpu) -> bool:
    """Whether a stronger claim gets the GPU at once. Of two that both had it for a day, neither
    gives way to the other, else it would go to and fro: that is a dispute."""
    if claim.decided_at is None and is_established(holder.created_at, now_ms()):
        return False
    return not await _is_booked(holder)


async def _is_booked(row: Gpu) -> bool:
    return await Booking.filter(gpu_id=row.id, held=True).exists()


def _claimed(claim: Gpu) -> Standing:
    """What speaks for a claim: its machine may have had the GPU until a short time ago."""
    if claim.decided_at is not None:
        return Standing.DECIDED
    is_back = claim.claimed_at is not None and _had_it_for_long(claim, claim.claimed_at)
    return Standing.ESTABLISHED if is_back else Standing.CLAIMED


def _had_it_for_long(row: Gpu, now: int) -> bool:
    """Whether it was in the machine for long, and is missing there since less than a day."""
    if row.removed_at is None:
        return False
    was_long = is_established(row.created_at, row.removed_at)
    return was_long and not is_established(row.removed_at, now)


def _standing(holder: Gpu, claims: Iterable[Gpu]) -> Standing:
    if holder.decided_at is not None:
        return Standing.DECIDED
    first = min(row.claimed_at for row in claims if row.claimed_at is not None)
    if is_established(holder.created_at, first):
        return Standing.ESTABLISHED
    return Standing.CLAIMED


async def _promote(row: Gpu) -> Gpu:
    """It is in its machine from now on: a claim that waited for long was no possession."""
    since = row.created_at if _claimed(row) is Standing.ESTABLISHED else now_ms()
    row.claimed_at = row.removed_at = None
    await Gpu.filter(id=row.id).update(
        claimed_at=None, removed_at=None, created_at=since, **told_health(row)
    )
    await _tell(row.machine_id, claimed(row.uuid), is_so=False)
    await record_change(row.machine_id, ChangeKind.INVENTORY_CHANGED)
    await join_whole_machines(row.machine_id)
    return await Gpu.get(id=row.id)


async def _demote(row: Gpu) -> None:
    """Its host reports it still: that is a claim now."""
    now = now_ms()
    await Gpu.filter(id=row.id).update(
        removed_at=now, claimed_at=now, disputed_at=None, decided_at=None
    )
    await _tell(row.machine_id, disputed(row.uuid), is_so=False)
    await _tell(row.machine_id, claimed(row.uuid), is_so=True)
    await record_change(row.machine_id, ChangeKind.INVENTORY_CHANGED)


async def _tell(machine_id: uuid.UUID, text: str, *, is_so: bool) -> None:
    """Among the reasons of its health until the machine's next inventory, which tells it again."""
    machine = await Machine.get(id=machine_id)
    if is_so is (text in machine.health_reasons):
        return
    reasons = [reason for reason in machine.health_reasons if reason != text]
    health = machine.health
    if is_so:
        reasons.append(text)
        health = Health.DEGRADED if health is Health.HEALTHY else health
    elif not reasons and health is Health.DEGRADED:
        health = Health.HEALTHY
    await Machine.filter(id=machine_id).update(health=health, health_reasons=reasons)
    await record_change(machine_id, ChangeKind.HEALTH_CHANGED)

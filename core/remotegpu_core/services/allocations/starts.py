"""What a machine remembers of starts that failed there: they weigh in placement, are among its health's
reasons, and a few in a row quarantine it.

Within the `ledger` of the machine.
"""

import uuid
from typing import Final

from remotegpu_core.actor import machine_actor
from remotegpu_core.models import Machine
from remotegpu_core.services import quarantine
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import Health
from remotegpu_protocol.grammar import clean_text

#: Starts that may fail one after the other before nothing more is placed there.
MAX_FAILED: Final = 3
#: Characters of a reason that are kept.
_KEPT: Final = 300


async def note_failed(machine_id: uuid.UUID, reason: str) -> None:
    """A start failed that the host had begun, or that it refused."""
    machine = await Machine.get(id=machine_id)
    was = told(machine)
    machine.failed_starts += 1
    machine.failed_start = clean_text(reason, _KEPT)
    await _save(machine, was)
    if machine.failed_starts >= MAX_FAILED:
        await quarantine.add(
            machine_id,
            CauseCode.STARTS_FAILED,
            f"{machine.failed_starts} starts in a row failed. The last one: {machine.failed_start}",
            actor=machine_actor(machine_id),
        )


async def note_succeeded(machine_id: uuid.UUID) -> None:
    """A start succeeded: what failed before it is forgotten."""
    machine = await Machine.get(id=machine_id)
    if not machine.failed_starts:
        return
    was = told(machine)
    machine.failed_starts, machine.failed_start = 0, None
    await _save(machine, was)
    await quarantine.lift(machine_id, [CauseCode.STARTS_FAILED], actor=machine_actor(machine_id))


async def put_on_probation(machine_id: uuid.UUID) -> None:
    """An admin answered for it: one more failure quarantines it again, a success clears it."""
    await Machine.filter(id=machine_id, failed_starts__gte=MAX_FAILED).update(
        failed_starts=MAX_FAILED - 1
    )


def told(machine: Machine) -> str | None:
    """As a reason of the machine's health; None where the last start succeeded."""
    if machine.failed_start is None:
        return None
    return f"The last start of an allocation failed: {machine.failed_start}"


async def _save(machine: Machine, was: str | None) -> None:
    now = told(machine)
    before = (machine.health, machine.health_reasons)
    reasons = [reason for reason in machine.health_reasons if reason != was]
    machine.health_reasons = [now, *reasons] if now is not None else reasons
    if machine.health is not Health.UNHEALTHY:
        machine.health = Health.DEGRADED if machine.health_reasons else Health.HEALTHY
    await machine.save(update_fields=["failed_starts", "failed_start", "health", "health_reasons"])
    if (machine.health, machine.health_reasons) != before:
        await record_change(machine.id, ChangeKind.HEALTH_CHANGED)

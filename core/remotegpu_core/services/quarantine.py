"""Why machines are kept out of use, and when that ends.

Each cause is a row, added by what finds it and lifted only by what answers it. A machine's lifecycle
follows from them: with a cause one that would be IN_SERVICE is QUARANTINED, and without any it is not.
MAINTENANCE and RETIRED are what operators say; causes stay beneath MAINTENANCE, and a machine that is
retired has none.

Everything here runs in a transaction that has locked the machine's row.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine, Outcome, QuarantineCause
from remotegpu_core.services import audit
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.grammar import clean_text

#: Characters of a message.
MAX_MESSAGE: Final = 500


class CauseCode(StrEnum):
    """In the order in which causes are told: what is to be answered first comes first."""

    HOST_CLONED = "HOST_CLONED"
    ALLOCATIONS_UNKNOWN = "ALLOCATIONS_UNKNOWN"
    JOURNAL_UNKNOWN = "JOURNAL_UNKNOWN"
    JOURNAL_BEHIND = "JOURNAL_BEHIND"
    JOURNAL_AHEAD = "JOURNAL_AHEAD"
    RECORDS_DAMAGED = "RECORDS_DAMAGED"
    HARDWARE_CONFLICT = "HARDWARE_CONFLICT"
    ADDRESS_CONFLICT = "ADDRESS_CONFLICT"
    CLEANING_FAILED = "CLEANING_FAILED"
    STARTS_FAILED = "STARTS_FAILED"
    #: Of a quarantine from before causes were kept, whose reason is none of the others.
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class _Answer:
    """`next_step`: what ends such a cause, for people. `holds`: no command is sent to the host while
    it stands. `by_override`: `overrideQuarantine` ends it."""

    next_step: str
    holds: bool = False
    by_override: bool = False


_ACCEPT: Final = "Find out which host this is and what runs on it, then call acceptHost"

_ANSWERS: Final[Mapping[CauseCode, _Answer]] = {
    CauseCode.HOST_CLONED: _Answer(
        "Stop one of the two hosts or enrol it anew with --replace, then call acceptHost for the "
        "other.",
        holds=True,
    ),
    CauseCode.ALLOCATIONS_UNKNOWN: _Answer(
        "Let whoever uses the host finish, or save what is theirs; then call acceptHost, which has the "
        "host take back and clean what is not known here.",
        holds=True,
    ),
    CauseCode.JOURNAL_UNKNOWN: _Answer(
        f"{_ACCEPT}, or enrol it anew with --replace.",
        holds=True,
    ),
    CauseCode.JOURNAL_BEHIND: _Answer(
        f"{_ACCEPT}, or enrol it anew with --replace.",
        holds=True,
    ),
    CauseCode.JOURNAL_AHEAD: _Answer(
        "The database is older than what the host was told. Compare what runs on the host with its "
        "allocations, then call acceptHost.",
        holds=True,
    ),
    CauseCode.RECORDS_DAMAGED: _Answer(
        "Restore the file on the host, or move it away after everything that former users left there "
        "is gone, then call acceptHost.",
        holds=True,
    ),
    CauseCode.HARDWARE_CONFLICT: _Answer(
        "Find out whether both are real hosts whose firmware has one UUID, as blades may. If so, call "
        "overrideQuarantine; else retire the machine of the host that is not.",
        by_override=True,
    ),
    CauseCode.ADDRESS_CONFLICT: _Answer(
        "Give the host another address, or the label 'site' if it is elsewhere; or say whose it is "
        "with setMachineAddresses and takeOver, or call acceptMachineAddresses if both are to have "
        "it."
    ),
    CauseCode.CLEANING_FAILED: _Answer(
        "Mend what kept it from being cleaned and call retryReclaim, or clean it by hand and call "
        "overrideQuarantine.",
        by_override=True,
    ),
    CauseCode.STARTS_FAILED: _Answer(
        "Mend the host, then call overrideQuarantine: if the next start fails too, the machine is "
        "quarantined again.",
        by_override=True,
    ),
    CauseCode.OTHER: _Answer(
        "Look at the host, then call overrideQuarantine.",
        by_override=True,
    ),
}

#: Causes while which no command is sent to the host; `acceptHost` answers them.
HOLDING: Final = frozenset(code for code, answer in _ANSWERS.items() if answer.holds)
#: Causes that an admin's word answers.
OVERRIDABLE: Final = frozenset(code for code, answer in _ANSWERS.items() if answer.by_override)


def next_step(code: str) -> str:
    """What ends a cause of this code."""
    return _ANSWERS[CauseCode(code)].next_step


async def add(
    machine_id: uuid.UUID,
    code: CauseCode,
    message: str,
    *,
    actor: Actor = SYSTEM,
    gpu_id: uuid.UUID | None = None,
    allocation_id: uuid.UUID | None = None,
    details: Mapping[str, str] | None = None,
) -> bool:
    """Keep a machine out of use for this cause; one that stands already gets the new message.

    False when nothing changed: it stood with this message, or the machine is retired. `details` are
    for the audit trail, and `actor` is who caused it.
    """
    text = clean_text(message, MAX_MESSAGE)
    machine = await Machine.get(id=machine_id)
    if machine.lifecycle is Lifecycle.RETIRED:
        return False
    same = QuarantineCause.filter(
        machine_id=machine_id, code=code, gpu_id=gpu_id, allocation_id=allocation_id
    )
    known = await same.first()
    if known is not None and known.message == text:
        return False
    if known is not None:
        await same.update(message=text)
    else:
        if machine.lifecycle is Lifecycle.IN_SERVICE:
            # First: the database refuses a cause on a machine in service.
            await Machine.filter(id=machine_id).update(lifecycle=Lifecycle.QUARANTINED)
        await QuarantineCause.create(
            machine_id=machine_id,
            code=code,
            gpu_id=gpu_id,
            allocation_id=allocation_id,
            message=text,
            since=now_ms(),
        )
    await audit.record(
        actor,
        "quarantineMachine",
        target=("Machine", machine_id),
        outcome=Outcome.FAILED,
        details={"machine": machine.name, "cause": code, "reason": text, **(details or {})},
    )
    await follow(machine_id)
    await record_change(machine_id, ChangeKind.LIFECYCLE_CHANGED)
    return True


async def lift(
    machine_id: uuid.UUID,
    codes: Collection[CauseCode],
    *,
    actor: Actor = SYSTEM,
    gpu_id: uuid.UUID | None = None,
    allocation_id: uuid.UUID | None = None,
) -> list[QuarantineCause]:
    """End causes of these codes, and return them; with `gpu_id` or `allocation_id` only its own.

    The machine is in service again when none is left, unless operators say something else.
    """
    query = QuarantineCause.filter(machine_id=machine_id, code__in=list(codes))
    if gpu_id is not None:
        query = query.filter(gpu_id=gpu_id)
    if allocation_id is not None:
        query = query.filter(allocation_id=allocation_id)
    lifted = await query
    if not lifted:
        return []
    await QuarantineCause.filter(id__in=[row.id for row in lifted]).delete()
    machine = await Machine.get(id=machine_id)
    for row in lifted:
        await audit.record(
            actor,
            "endQuarantine",
            target=("Machine", machine_id),
            details={"machine": machine.name, "cause": row.code},
        )
    await follow(machine_id)
    await record_change(machine_id, ChangeKind.LIFECYCLE_CHANGED)
    return lifted


async def follow(machine_id: uuid.UUID) -> None:
    """Bring what a machine's row says in step with its causes. Operators who put a machine into
    service, or retire it, write that and call this."""
    machine = await Machine.get(id=machine_id)
    causes = (await causes_of([machine_id]))[machine_id]
    holding = [row.message for row in causes if row.code in HOLDING]
    values: dict[str, object] = {"command_hold": holding[0] if holding else None}
    if machine.lifecycle in {Lifecycle.IN_SERVICE, Lifecycle.QUARANTINED}:
        values["lifecycle"] = Lifecycle.QUARANTINED if causes else Lifecycle.IN_SERVICE
        values["lifecycle_reason"] = _told(causes)
    await Machine.filter(id=machine_id).update(**values)


async def causes_of(
    machine_ids: Sequence[uuid.UUID],
) -> dict[uuid.UUID, list[QuarantineCause]]:
    """Causes by machine: in the order of their codes, of one code the newest first."""
    found: dict[uuid.UUID, list[QuarantineCause]] = {machine_id: [] for machine_id in machine_ids}
    for row in await QuarantineCause.filter(machine_id__in=list(machine_ids)).order_by("-id"):
        found[row.machine_id].append(row)
    order = list(CauseCode)
    for rows in found.values():
        rows.sort(key=lambda row: order.index(CauseCode(row.code)))
    return found


def _told(causes: Sequence[QuarantineCause]) -> str | None:
    """In one text: the first, and how many more there are."""
    if not causes:
        return None
    more = len(causes) - 1
    if not more:
        return causes[0].message
    others = "There is another cause." if more == 1 else f"There are {more} more causes."
    return f"{clean_text(causes[0].message, MAX_MESSAGE - len(others) - 1)} {others}"

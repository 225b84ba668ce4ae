"""The journals of hosts: whether a host that connects is the one that was sent commands.

A journal that is not known, or one whose last event is older than what was applied, tells of a
restored disk or of a copy. What was under way on the host is INDETERMINATE then. One that was told
of more events than were applied tells of a database that was restored. Each such host gets no
command until an admin accepts it.
"""

import uuid
from dataclasses import dataclass
from typing import Final

from remotegpu_core.models import Command, Machine
from remotegpu_core.services import commands, hosts
from remotegpu_core.services.allocations.outcomes import apply_outcome
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import CommandState

UNKNOWN: Final = (
    "The host's journal of commands is not the one that it had: was its disk replaced, or is this "
    "another host? Accept the host once you know, or enrol it anew with --replace."
)
BEHIND: Final = (
    "The host's journal of commands is older than what it has told already: was its disk restored "
    "from a backup? Accept the host once you know, or enrol it anew with --replace."
)
AHEAD: Final = (
    "The host has told more than this database knows, and was told that it is kept: was the "
    "database restored from a backup? Somebody may use the host whom the database does not know. "
    "Compare what runs there with its allocations here, then accept the host."
)

_LOST: Final = ("JOURNAL_LOST", "The host lost its record of this, and nobody can tell its end.")


@dataclass(frozen=True, slots=True)
class Journal:
    """What a hello says of its host's journal: the last event in it, and the last that the host
    knows to be applied, None from agents that do not tell."""

    id: str
    last_sequence: int = 0
    acknowledged: int | None = None


async def meet(connected: Machine, journal: Journal | None) -> None:
    """Compare the journal that a connection's hello named with the one that is known.

    `connected` is the machine as its connection found it, before the first command is sent over it.
    An agent without a journal is asked for nothing; what was sent to one that lost its journal
    altogether is lost too.
    """
    if journal is None or (connected.command_hold is None and _trouble(connected, journal) is None):
        # As nearly always: a fleet that comes back at once need not queue for the ledger.
        return
    machine_id = connected.id
    async with ledger(machine_id) as machine:
        if machine is None or machine.epoch != connected.epoch:
            return
        if not machine.journal_id:
            await Machine.filter(id=machine_id).update(
                journal_id=journal.id, event_sequence=journal.acknowledged or 0
            )
            if machine.journal_id is not None:
                await _lose(machine_id)
            return
        trouble = _trouble(machine, journal)
        if trouble is not None:
            if machine.command_hold is None:
                await hosts.hold(machine_id, *trouble)
            if trouble[0] is CauseCode.JOURNAL_AHEAD:
                await _ask_again(machine_id)
            else:
                await _lose(machine_id)
        await Machine.filter(id=machine_id).update(
            offered_journal_id=journal.id, offered_acknowledged=journal.acknowledged
        )


async def hold_for_gap(machine_id: uuid.UUID) -> None:
    """The first event of a connection follows others that never came; within a ledger."""
    await hosts.hold(machine_id, CauseCode.JOURNAL_AHEAD, AHEAD)
    await _ask_again(machine_id)


def _trouble(machine: Machine, journal: Journal) -> tuple[CauseCode, str] | None:
    if machine.journal_id != journal.id:
        return CauseCode.JOURNAL_UNKNOWN, UNKNOWN
    if journal.last_sequence < machine.event_sequence:
        return CauseCode.JOURNAL_BEHIND, BEHIND
    if (journal.acknowledged or 0) > machine.event_sequence:
        return CauseCode.JOURNAL_AHEAD, AHEAD
    return None


async def _lose(machine_id: uuid.UUID) -> None:
    """What the host may have begun has no end that anybody knows; the rest waits."""
    begun = Command.filter(machine_id=machine_id, state__in=list(commands.OPEN))
    for command in await begun.exclude(state=CommandState.QUEUED).order_by("sequence"):
        if await commands.move(command.id, CommandState.INDETERMINATE, error=_LOST):
            await apply_outcome(await Command.get(id=command.id))


async def _ask_again(machine_id: uuid.UUID) -> None:
    """Have what the host may have done be sent once more when it is accepted: it knows the commands,
    and tells where they stand."""
    begun = [CommandState.ACCEPTED, CommandState.RUNNING]
    await Command.filter(machine_id=machine_id, state__in=begun).update(state=CommandState.SENT)

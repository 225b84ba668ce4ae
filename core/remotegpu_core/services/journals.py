"""The journals of hosts: whether a host that connects is the one that was sent commands.

A journal that is not known, or one whose last event is older than what was applied, tells of a
restored disk or of a copy. What was under way on the host is INDETERMINATE then, and it gets no
command until an admin accepts it.
"""

import uuid
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

_UNKNOWN: Final = (CauseCode.JOURNAL_UNKNOWN, UNKNOWN)
_BEHIND: Final = (CauseCode.JOURNAL_BEHIND, BEHIND)

_LOST: Final = ("JOURNAL_LOST", "The host lost its record of this, and nobody can tell its end.")


async def meet(connected: Machine, *, journal_id: str | None, last_sequence: int | None) -> None:
    """Compare the journal that a connection's hello named with the one that is known.

    `connected` is the machine as its connection found it, before the first command is sent over it.
    An agent without a journal is asked for nothing; what was sent to one that lost its journal
    altogether is lost too.
    """
    last = last_sequence or 0
    if journal_id is None or _fits(connected, journal_id, last):
        # As nearly always: a fleet that comes back at once need not queue for the ledger.
        return
    machine_id = connected.id
    async with ledger(machine_id) as machine:
        if machine is None or machine.epoch != connected.epoch:
            return
        known = machine.journal_id
        if _fits(machine, journal_id, last):
            return
        if known:
            if machine.command_hold is None:
                await hosts.hold(machine_id, *(_BEHIND if known == journal_id else _UNKNOWN))
        else:
            await Machine.filter(id=machine_id).update(journal_id=journal_id, event_sequence=0)
        if known is not None:
            await _lose(machine_id)


def _fits(machine: Machine, journal_id: str, last_sequence: int) -> bool:
    return machine.journal_id == journal_id and last_sequence >= machine.event_sequence


async def _lose(machine_id: uuid.UUID) -> None:
    """What the host may have begun has no end that anybody knows; the rest waits."""
    begun = Command.filter(machine_id=machine_id, state__in=list(commands.OPEN))
    for command in await begun.exclude(state=CommandState.QUEUED).order_by("sequence"):
        if await commands.move(command.id, CommandState.INDETERMINATE, error=_LOST):
            await apply_outcome(await Command.get(id=command.id))

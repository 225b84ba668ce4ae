"""Restored disks, replaced disks and hosts that were made anew."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.models import AuditEvent, Command, Machine
from remotegpu_core.services import commands, hosts, journals
from remotegpu_core.services.journals import Journal
from remotegpu_core.services.presence import connect
from remotegpu_core.states import CommandState, Lifecycle
from tests.core.hosts import REPLICA, make_online
from tests.core.services.test_events import queue, sent, state

pytestmark = pytest.mark.usefixtures("database")


async def meet(
    machine: Machine, journal: str | None, last: int = 0, acknowledged: int | None = None
) -> Machine:
    """Connect with this journal, as the gateway does."""
    connected = await connect(machine.id, REPLICA, agent_version="1", boot_id="boot-1")
    assert connected is not None
    said = None if journal is None else Journal(journal, last, acknowledged)
    await journals.meet(connected.machine, said)
    return await Machine.get(id=machine.id)


async def test_the_first_journal_is_the_machines() -> None:
    machine, _ = await make_online()
    command = await queue(machine)
    machine = await meet(machine, "j1", 7)
    assert (machine.journal_id, machine.event_sequence, machine.command_hold) == ("j1", 0, None)
    machine = await meet(machine, "j1", 7)
    assert machine.command_hold is None
    assert await state(command) is CommandState.QUEUED


async def test_a_journal_that_went_back_is_held(admin: Actor) -> None:
    machine, _ = await make_online()
    machine = await meet(machine, "j1", 0)
    seen, waits = await sent(machine), await queue(machine)
    await Machine.filter(id=machine.id).update(event_sequence=9)
    assert (await meet(machine, "j1", 9)).command_hold is None
    machine = await meet(machine, "j1", 8)
    assert machine.command_hold == journals.BEHIND
    # What was cleaned there may be back on the disk.
    assert machine.lifecycle is Lifecycle.QUARANTINED
    assert await state(seen) is CommandState.INDETERMINATE
    assert (await Command.get(id=seen.id)).error_code == "JOURNAL_LOST"
    assert await state(waits) is CommandState.QUEUED
    assert await commands.waiting_for(REPLICA) == []
    # Said once, however often it comes back.
    await meet(machine, "j1", 8)
    assert await AuditEvent.filter(action="quarantineMachine").count() == 1

    await hosts.accept_host(admin, machine.id)
    machine = await meet(machine, "j1", 8)
    assert (machine.command_hold, machine.event_sequence) == (None, 0)
    assert [row.id for row in await commands.waiting_for(REPLICA)] == [waits.id]


async def test_a_journal_that_nobody_knows_is_held() -> None:
    machine, _ = await make_online()
    machine = await meet(machine, "j1", 0)
    seen = await sent(machine)
    assert (await meet(machine, "j2", 99)).command_hold == journals.UNKNOWN
    assert await state(seen) is CommandState.INDETERMINATE


async def test_a_host_that_was_enrolled_anew_is_accepted() -> None:
    machine, _ = await make_online()
    machine = await meet(machine, "j1", 0)
    seen = await sent(machine)
    await Machine.filter(id=machine.id).update(event_sequence=5, journal_id=hosts.EXPECTED_JOURNAL)
    machine = await meet(machine, "j2", 0)
    assert (machine.journal_id, machine.event_sequence, machine.command_hold) == ("j2", 0, None)
    assert await state(seen) is CommandState.INDETERMINATE


async def test_an_agent_without_a_journal_changes_nothing() -> None:
    machine, _ = await make_online()
    machine = await meet(machine, None)
    assert machine.journal_id is None
    machine = await meet(machine, "j1", 3)
    assert (await meet(machine, None)).journal_id == "j1"


async def test_an_older_connection_changes_nothing() -> None:
    older, _ = await make_online()
    machine = await meet(older, "j1", 0)
    assert machine.epoch > older.epoch
    await journals.meet(older, Journal("j2"))
    machine = await Machine.get(id=machine.id)
    assert (machine.journal_id, machine.command_hold) == ("j1", None)


async def test_a_journal_that_fits_needs_no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, _ = await make_online()
    await meet(machine, "j1", 0)

    def refuse(_machine_id: object) -> None:
        raise AssertionError("a fleet that comes back would queue here")

    monkeypatch.setattr(journals, "ledger", refuse)
    assert (await meet(machine, "j1", 4)).command_hold is None


async def test_a_host_that_told_more_than_the_database_knows_is_held(admin: Actor) -> None:
    """A backup of the database was put back."""
    machine, _ = await make_online()
    machine = await meet(machine, "j1", 20, 20)
    assert (machine.event_sequence, machine.command_hold) == (20, None)
    under_way = await sent(machine)
    await commands.move(under_way.id, CommandState.RUNNING)
    # What it has told and nobody acknowledged is as usual.
    assert (await meet(machine, "j1", 29, 20)).command_hold is None
    machine = await meet(machine, "j1", 30, 21)
    assert machine.command_hold == journals.AHEAD
    assert machine.lifecycle is Lifecycle.QUARANTINED
    assert await commands.waiting_for(REPLICA) == []
    # The host may have done it long ago: it is asked again.
    assert await state(under_way) is CommandState.SENT
    accepted = await hosts.accept_host(admin, machine.id)
    assert (accepted.event_sequence, accepted.journal_id) == (21, "j1")
    assert (await meet(machine, "j1", 30, 21)).command_hold is None


async def test_accepting_a_host_accepts_the_journal_that_was_there(admin: Actor) -> None:
    machine, _ = await make_online()
    machine = await meet(machine, "a", 4, 4)
    assert (await meet(machine, "b", 7, 6)).command_hold == journals.UNKNOWN
    accepted = await hosts.accept_host(admin, machine.id)
    assert (accepted.journal_id, accepted.event_sequence) == ("b", 6)
    # Not the one that comes next.
    for journal in ("a", "c"):
        held = await meet(machine, journal, 9, 9)
        assert (held.command_hold, held.journal_id) == (journals.UNKNOWN, "b")
    # The newest that is there when the admin accepts, held already or not.
    await meet(machine, "b", 8, 6)
    accepted = await hosts.accept_host(admin, machine.id)
    assert (accepted.journal_id, accepted.event_sequence) == ("b", 6)
    assert (await meet(machine, "b", 9, 6)).command_hold is None

"""Restored disks, replaced disks and hosts that were made anew."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.models import AuditEvent, Command, Machine
from remotegpu_core.services import commands, hosts, journals
from remotegpu_core.services.presence import connect
from remotegpu_core.states import CommandState, Lifecycle
from tests.core.hosts import REPLICA, make_online
from tests.core.services.test_events import queue, sent, state

pytestmark = pytest.mark.usefixtures("database")


async def meet(machine: Machine, journal: str | None, last: int | None) -> Machine:
    """Connect with this journal, as the gateway does."""
    connected = await connect(machine.id, REPLICA, agent_version="1", boot_id="boot-1")
    assert connected is not None
    await journals.meet(connected.machine, journal_id=journal, last_sequence=last)
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
    machine = await meet(machine, None, None)
    assert machine.journal_id is None
    machine = await meet(machine, "j1", 3)
    assert (await meet(machine, None, None)).journal_id == "j1"


async def test_an_older_connection_changes_nothing() -> None:
    older, _ = await make_online()
    machine = await meet(older, "j1", 0)
    assert machine.epoch > older.epoch
    await journals.meet(older, journal_id="j2", last_sequence=0)
    machine = await Machine.get(id=machine.id)
    assert (machine.journal_id, machine.command_hold) == ("j1", None)


async def test_a_journal_that_fits_needs_no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, _ = await make_online()
    await meet(machine, "j1", 0)

    def refuse(_machine_id: object) -> None:
        raise AssertionError("a fleet that comes back would queue here")

    monkeypatch.setattr(journals, "ledger", refuse)
    assert (await meet(machine, "j1", 4)).command_hold is None

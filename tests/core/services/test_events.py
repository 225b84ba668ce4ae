"""What hosts tell of their commands: once, in order, and from the newest connection only."""

import uuid

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Command, Machine, Operation
from remotegpu_core.services import commands, events, journals, operations
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.presence import connect
from remotegpu_core.states import CommandState, Lifecycle, OperationState, StepState
from remotegpu_protocol.commands import Event, EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    AllocationEnd,
    AllocationStart,
    CleaningReport,
    pack_result,
)
from tests.core.hosts import REPLICA, make_online
from tests.core.people import HOUR

pytestmark = pytest.mark.usefixtures("database")

START = AllocationStart("a1", "ada", False, ["GPU-1"], 1_900_000_000_000)


async def queue(
    machine: Machine, *, deadline: int | None = None, operation: Operation | None = None
) -> Command:
    async with ledger(machine.id):
        return await commands.enqueue(
            ALLOCATION_START,
            START,
            machine_id=machine.id,
            deadline=deadline or now_ms() + HOUR,
            operation_id=None if operation is None else operation.id,
        )


async def sent(machine: Machine, **values: object) -> Command:
    command = await queue(machine, **values)  # type: ignore[arg-type]  # passed on as it is
    assert await commands.mark_sent([command.id]) == {command.id}
    return command


def event(command: Command, sequence: int, state: EventState, **values: object) -> Event:
    return Event(sequence, str(command.id), state, now_ms(), **values)  # type: ignore[arg-type]  # passed on as it is


async def state(command: Command) -> CommandState:
    return CommandState((await Command.get(id=command.id)).state)


async def test_a_command_from_the_outbox_to_its_end() -> None:
    machine, epoch = await make_online()
    async with ledger(machine.id):
        operation = await operations.begin("test", ["start"], user_id=None, machine_id=machine.id)
    command = await sent(machine, operation=operation)
    story = [
        (EventState.ACCEPTED, CommandState.ACCEPTED),
        (EventState.RUNNING, CommandState.RUNNING),
        (EventState.RUNNING, CommandState.RUNNING),
        (EventState.SUCCEEDED, CommandState.SUCCEEDED),
    ]
    for sequence, (told, expected) in enumerate(story, 1):
        running = told is EventState.RUNNING
        applied = await events.apply_event(
            machine.id,
            epoch,
            event(
                command,
                sequence,
                told,
                progress=sequence / 10 if running else None,
                step="account" if running else None,
                detail="useradd" if running else None,
            ),
        )
        assert applied.acknowledge == sequence
        assert await state(command) is expected
    row = await Command.get(id=command.id)
    assert row.accepted_at is not None
    assert row.finished_at is not None
    [step] = (await operations.steps_of([operation.id]))[operation.id]
    assert (step.state, step.detail) == (StepState.RUNNING, "account: useradd")
    found = await Operation.get(id=operation.id)
    assert (found.state, found.progress) == (OperationState.RUNNING, 0.3)
    assert (await Machine.get(id=machine.id)).event_sequence == 4


async def test_an_event_that_comes_again_changes_nothing() -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    accepted = event(command, 1, EventState.ACCEPTED)
    failed = event(command, 2, EventState.FAILED, error_code="NO_SPACE", error_message="full")
    for told in (accepted, failed):
        await events.apply_event(machine.id, epoch, told)
    # Both again, in any order, and one that claims another end under an old number.
    for told in (failed, accepted, event(command, 2, EventState.SUCCEEDED)):
        assert (await events.apply_event(machine.id, epoch, told)).acknowledge == 2
    row = await Command.get(id=command.id)
    assert (row.state, row.error_code, row.error_message) == (
        CommandState.FAILED,
        "NO_SPACE",
        "full",
    )


async def test_an_event_after_a_gap_waits_for_what_is_missing() -> None:
    """Dropped beyond the rate, or not applied because the database was away for a moment."""
    machine, epoch = await make_online()
    command = await sent(machine)
    accepted, running, failed = (
        event(command, sequence, told)
        for sequence, told in enumerate(
            (EventState.ACCEPTED, EventState.RUNNING, EventState.FAILED), 1
        )
    )
    await events.apply_event(machine.id, epoch, accepted, first_of=3)
    assert await events.apply_event(machine.id, epoch, failed) == events.Applied(1)
    assert await state(command) is CommandState.ACCEPTED
    for told in (running, failed):
        assert (await events.apply_event(machine.id, epoch, told)).acknowledge == told.sequence
    assert await state(command) is CommandState.FAILED


async def test_a_gap_at_the_start_of_a_connection_holds_the_host() -> None:
    """The host has nothing older: this database has lost what it had acknowledged."""
    machine, epoch = await make_online()
    done, other = await sent(machine), await sent(machine)
    await events.apply_event(machine.id, epoch, event(done, 1, EventState.RUNNING), first_of=1)
    jumped = event(other, 9, EventState.ACCEPTED)
    assert (await events.apply_event(machine.id, epoch, jumped)).acknowledge == 1
    assert await events.apply_event(machine.id, epoch, jumped, first_of=9) == events.Applied()
    found = await Machine.get(id=machine.id)
    assert (found.command_hold, found.event_sequence) == (journals.AHEAD, 1)
    assert found.lifecycle is Lifecycle.QUARANTINED
    assert await state(other) is CommandState.SENT
    # The host is asked again, and knows where it stands.
    assert await state(done) is CommandState.SENT


@pytest.mark.parametrize("sequence", [11, 2**53 - 1])
async def test_a_first_event_beyond_the_journal_is_not_believed(sequence: int) -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    told = event(command, sequence, EventState.ACCEPTED)
    assert await events.apply_event(machine.id, epoch, told, first_of=9) == events.Applied()
    assert (await Machine.get(id=machine.id)).event_sequence == 0
    assert (await Machine.get(id=machine.id)).command_hold == journals.AHEAD


async def test_the_first_event_of_a_journal_that_told_nothing_here_may_be_any() -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    told = event(command, 9, EventState.ACCEPTED)
    assert (await events.apply_event(machine.id, epoch, told, first_of=9)).acknowledge == 9
    assert await state(command) is CommandState.ACCEPTED


async def test_an_older_connection_changes_nothing() -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    assert await connect(machine.id, REPLICA, agent_version="1", boot_id="boot-1")
    applied = await events.apply_event(machine.id, epoch, event(command, 1, EventState.ACCEPTED))
    assert applied.stale
    assert await state(command) is CommandState.SENT
    assert (await Machine.get(id=machine.id)).event_sequence == 0


async def test_a_host_that_is_held_is_not_believed_yet() -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    await Machine.filter(id=machine.id).update(command_hold="look", event_sequence=3)
    for sequence in (2, 4):
        told = event(command, sequence, EventState.ACCEPTED)
        assert await events.apply_event(machine.id, epoch, told) == events.Applied()
    assert await state(command) is CommandState.SENT
    await Machine.filter(id=machine.id).update(command_hold=None, event_sequence=0)
    told = event(command, 4, EventState.ACCEPTED)
    assert (await events.apply_event(machine.id, epoch, told, first_of=4)).acknowledge == 4
    assert await state(command) is CommandState.ACCEPTED


async def test_a_host_speaks_of_its_own_commands_only() -> None:
    ours, epoch = await make_online()
    theirs, _ = await make_online()
    command = await sent(theirs)
    for given in (str(command.id), str(uuid.uuid4()), "no id at all"):
        sequence = (await Machine.get(id=ours.id)).event_sequence + 1
        told = Event(sequence, given, EventState.SUCCEEDED, now_ms(), result=b"\x80")
        # Acknowledged, or the host would say it for ever.
        assert (await events.apply_event(ours.id, epoch, told)).acknowledge == sequence
    assert await state(command) is CommandState.SENT


async def test_an_end_stands_but_for_one_that_nobody_could_tell() -> None:
    machine, epoch = await make_online()
    command = await sent(machine)
    for sequence, told in enumerate(
        (EventState.INDETERMINATE, EventState.SUCCEEDED, EventState.FAILED), 1
    ):
        await events.apply_event(machine.id, epoch, event(command, sequence, told))
    assert await state(command) is CommandState.SUCCEEDED


async def test_a_result_of_another_shape_is_no_success() -> None:
    machine, epoch = await make_online()
    async with ledger(machine.id):
        command = await commands.enqueue(
            ALLOCATION_END,
            AllocationEnd("a1"),
            machine_id=machine.id,
            deadline=now_ms() + HOUR,
        )
    await commands.mark_sent([command.id])
    report = pack_result(ALLOCATION_END, CleaningReport(performed=True, verified=True))
    for sequence, result in enumerate((b"\x81\xa9performed\x01", report), 1):
        told = event(command, sequence, EventState.SUCCEEDED, result=result)
        await events.apply_event(machine.id, epoch, told)
    row = await Command.get(id=command.id)
    assert (row.state, row.error_code) == (CommandState.FAILED, "INVALID_RESULT")


async def test_what_was_never_sent_in_time_expires_here() -> None:
    machine, _ = await make_online()
    late, seen, early = (
        await queue(machine, deadline=now_ms() - 1),
        await sent(machine, deadline=now_ms() - 1),
        await queue(machine),
    )
    assert await events.expire_unsent() == 1
    assert await events.expire_unsent() == 0
    assert [await state(each) for each in (late, seen, early)] == [
        CommandState.EXPIRED,
        # The host may have begun it in time: only it can tell.
        CommandState.SENT,
        CommandState.QUEUED,
    ]
    assert await commands.mark_sent([late.id, seen.id, early.id]) == {seen.id, early.id}


async def test_what_a_link_was_given_is_not_taken_back_here() -> None:
    machine, _epoch = await make_online()
    one, two = await queue(machine), await queue(machine)
    # Somebody has read both when a dispatcher sends the first.
    assert await commands.mark_sent([one.id]) == {one.id}
    assert not await commands.move(one.id, CommandState.CANCELLED, unsent=True)
    assert await commands.move(two.id, CommandState.CANCELLED, unsent=True)
    assert await commands.mark_sent([one.id, two.id]) == {one.id}
    assert (await state(one), await state(two)) == (CommandState.SENT, CommandState.CANCELLED)


async def test_what_ended_long_ago_is_forgotten() -> None:
    machine, _epoch = await make_online()
    old, new, open_one = [await queue(machine) for _ in range(3)]
    for command in (old, new):
        assert await commands.move(command.id, CommandState.CANCELLED)
    await Command.filter(id=old.id).update(finished_at=now_ms() - HOUR)
    assert await commands.prune(now_ms() - HOUR // 2) == 1
    left = await Command.all().values_list("id", flat=True)
    assert set(left) == {new.id, open_one.id}


async def test_the_outbox_is_read_in_order_and_for_links_of_this_replica() -> None:
    here, _ = await make_online()
    held, _ = await make_online()
    elsewhere, _ = await make_online()
    await connect(elsewhere.id, uuid.uuid4(), agent_version="1", boot_id="boot-1")
    without, _ = await make_online()
    for machine in (here, held, elsewhere, without, here):
        await queue(machine)
    await Machine.exclude(id=without.id).update(journal_id="j1")
    await Machine.filter(id=held.id).update(command_hold="look")
    found = await commands.waiting_for(REPLICA)
    assert [row.machine_id for row in found] == [here.id, here.id]
    assert found[0].sequence < found[1].sequence
    assert await commands.waiting_for(REPLICA, full=[here.id]) == []
    [last] = await commands.waiting_for(REPLICA, underway=[found[0].id])
    assert last.id == found[1].id
    command = found[0]
    await commands.mark_sent([command.id])
    await Command.filter(id=command.id).update(cancel_requested_at=now_ms())
    assert await commands.cancels_for(REPLICA) == [(command.id, here.id)]
    assert await commands.cancels_for(uuid.uuid4()) == []

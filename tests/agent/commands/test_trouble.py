"""Disks that are full, journals that are damaged, put back or somebody else's, and links that break."""

import shutil
from pathlib import Path

import pytest

from remotegpu_agent.commands.moments import Moment
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.limits import EVENT_WINDOW
from remotegpu_protocol.messages import Heartbeat
from tests.agent.commands.commander import Commander
from tests.agent.commands.mortal import Death, Effects, alive, fill_disk, make_room
from tests.agent.control_plane import ControlPlane

pytestmark = pytest.mark.usefixtures("identity")


@pytest.fixture
def commander(plane: ControlPlane) -> Commander:
    plane.sample_interval = 3600.0
    return Commander(plane)


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path / "effects")


async def test_a_full_disk_is_told_and_nothing_is_done(
    plane: ControlPlane, directory: StateDirectory, commander: Commander, effects: Effects
) -> None:
    first, second = commander.start("a1"), commander.start("a2")
    with alive(directory, effects) as process:
        await plane.peer()
        await commander.give(first)
        await commander.outcome(first)
        fill_disk(process.pid)
        await commander.give(second)
        error = (await plane.until(lambda: commander.errors))[0]
        assert (error.code, error.fatal) == ("JOURNAL", False)
        assert str(directory.path / "journal.db") in error.message
        assert "make room" in error.message
        await commander.settle()
        assert commander.of(second) == []
        assert effects.count() == {"a1": 1}

        make_room(process.pid)
        await commander.give(second)
        assert (await commander.outcome(second)).state is EventState.SUCCEEDED
    assert effects.count() == {"a1": 1, "a2": 1}
    assert len(plane.peers) == 1, "the link went on all the time"
    commander.check()


@pytest.mark.parametrize("moment", [Moment.BEGINNING, Moment.BEGUN, Moment.FINISHING])
async def test_a_disk_that_is_full_in_the_middle_of_it(
    plane: ControlPlane,
    directory: StateDirectory,
    commander: Commander,
    effects: Effects,
    moment: Moment,
) -> None:
    """What must be written is written when there is room; the effect waits, or is not repeated."""
    command = commander.start("a1")
    with alive(directory, effects, death=Death(moment, full=True)) as process:
        await plane.peer()
        await commander.give(command)
        await commander.reached(command, EventState.ACCEPTED)
        await commander.settle(0.5)
        assert [event for event in commander.of(command) if event.state.is_end] == []
        begun = effects.count()
        assert begun == ({"a1": 1} if moment is Moment.FINISHING else {})
        make_room(process.pid)
        ended = await commander.outcome(command)
    if moment is Moment.BEGUN:
        # The effect itself found no room, and said so.
        assert (ended.state, ended.error_code) == (EventState.FAILED, "INTERNAL")
    else:
        assert ended.state is EventState.SUCCEEDED
        assert effects.count() == {"a1": 1}
    commander.check()


async def test_a_journal_that_was_put_back_announces_less(
    plane: ControlPlane, directory: StateDirectory, commander: Commander, effects: Effects
) -> None:
    first, second = commander.start("a1"), commander.start("a2")
    copy = directory.path.with_name("backup")
    with alive(directory, effects):
        await commander.give(first)
        await commander.outcome(first)
    shutil.copytree(directory.path, copy)
    with alive(directory, effects):
        await commander.give(second)
        await commander.outcome(second)
    with alive(directory, effects):
        await plane.peer(3)
    shutil.rmtree(directory.path)
    copy.rename(directory.path)
    with alive(directory, effects):
        await plane.peer(4)
    made, kept, later, restored = commander.journals
    assert made[1] == 0
    assert len({journal for journal, _ in commander.journals}) == 1
    assert later[1] == commander.applied[-1].sequence
    assert restored == kept
    assert kept[1] is not None
    assert later[1] is not None
    assert 0 < kept[1] < later[1]


@pytest.mark.parametrize("trouble", ["damaged", "cut", "readable by others", "newer"])
async def test_a_journal_that_cannot_be_used(
    plane: ControlPlane,
    directory: StateDirectory,
    commander: Commander,
    effects: Effects,
    trouble: str,
) -> None:
    """The host goes on to be monitored, and takes commands again as soon as it can."""
    journal = directory.path / "journal.db"
    with alive(directory, effects) as process:
        await plane.peer()
        # Ended politely, it leaves everything in one file.
        process.terminate()
        process.join(20)
    assert process.exitcode == 0
    good = journal.read_bytes()
    match trouble:
        case "damaged":
            journal.write_bytes(b"no journal" * 1000)
        case "cut":
            journal.write_bytes(good[: len(good) // 2])
        case "newer":
            # The version is a big-endian number at byte 60 of SQLite's header.
            journal.write_bytes(good[:60] + (2).to_bytes(4, "big") + good[64:])
        case _:
            journal.chmod(0o644)
    command = commander.start("a1")
    with alive(directory, effects):
        peer = await plane.peer(2)
        assert commander.journals[1] == (None, None)
        await commander.give(command)
        error = (await plane.until(lambda: commander.errors))[0]
        assert error.code == "JOURNAL"
        assert str(journal) in error.message
        await plane.until(lambda: peer.of(Heartbeat))
        assert commander.of(command) == []
        assert not peer.closed.is_set()

        journal.write_bytes(good)
        journal.chmod(0o600)
        # A new link announces it, and brings what was not accepted.
        await plane.peer(3)
        assert (await commander.outcome(command)).state is EventState.SUCCEEDED
    assert commander.journals[2] == (commander.journals[0][0], 0)
    assert effects.count() == {"a1": 1}


async def test_work_goes_on_while_the_link_is_away(
    plane: ControlPlane, directory: StateDirectory, commander: Commander, effects: Effects
) -> None:
    commands = [commander.start(f"a{number}") for number in range(5)]
    with alive(directory, effects):
        peer = await plane.peer()
        commander.acknowledges = False
        await commander.give(*commands)
        await plane.until(lambda: commander.applied)
        peer.websocket.transport.abort()
        commander.acknowledges = True
        for command in commands:
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
    assert effects.count() == {command.allocation_id: 1 for command in commands}
    commander.check()


async def test_few_events_are_on_their_way_at_once_and_come_until_acknowledged(
    plane: ControlPlane, directory: StateDirectory, commander: Commander, effects: Effects
) -> None:
    # Three events each, and one in the middle of it.
    commands = [commander.start(f"a{number}") for number in range(EVENT_WINDOW // 2)]
    commander.acknowledges = False
    with alive(directory, effects):
        await plane.peer()
        await commander.give(*commands)
        await plane.until(lambda: len(commander.applied) == EVENT_WINDOW)
        # They come again as nobody acknowledges them, and no more than those.
        await plane.until(lambda: commander.twice >= EVENT_WINDOW)
        assert len(commander.applied) == EVENT_WINDOW
        await commander.acknowledge()
        for command in commands:
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
    commander.check()


async def test_an_event_that_got_lost_on_the_way_comes_again(
    plane: ControlPlane, directory: StateDirectory, commander: Commander, effects: Effects
) -> None:
    command = commander.start("a1")
    commander.lost = {2, 3}
    with alive(directory, effects):
        await plane.peer()
        await commander.give(command)
        await commander.outcome(command)
    assert commander.states(command) == ["ACCEPTED", "RUNNING", "SUCCEEDED"]
    assert commander.early > 0
    commander.check()

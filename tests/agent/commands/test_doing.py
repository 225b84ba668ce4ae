"""Doing commands: side by side, in their order, failing, stopped, resumed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from remotegpu_agent.agent import Agent
from remotegpu_agent.commands.desk import FILE, CommandDesk
from remotegpu_agent.commands.handler import (
    NOT_DONE,
    CommandFailed,
    Done,
    Handler,
    LookedUp,
    Report,
)
from remotegpu_agent.commands.journal import Journal
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.commands.runner import MAX_SIDE_BY_SIDE
from remotegpu_agent.identity import Identity
from remotegpu_agent.link import wall_clock
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.kinds import ALLOCATION_START, AllocationStart, Nothing
from tests.agent.commands.commander import HOUR_MS, Commander
from tests.agent.control_plane import PATIENCE, ControlPlane, background
from tests.agent.test_agent import QUICK


class Scripted(Handler[AllocationStart]):
    """Waits until it is let go, and remembers what it did; what it does is in the user's name."""

    kind = ALLOCATION_START
    stoppable = True

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.let_go = asyncio.Event()

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        refused = arguments.allocation_id == "unwelcome"
        return CommandFailed("UNWELCOME", "Expected a guest.") if refused else None

    async def run(self, arguments: AllocationStart, report: Report) -> Nothing:
        self.begun.append(arguments.allocation_id)
        await report(Progress("under\nway", 7.0))
        match arguments.allocation_id:
            case "fails":
                raise CommandFailed("NO_SUCH_THING", "Expected a thing,\x1b[31m got none.")
            case "breaks":
                raise ZeroDivisionError("of nobody's business")
            case _:
                await self.let_go.wait()
        self.done.append(arguments.allocation_id)
        return Nothing()

    async def look_up(self, arguments: AllocationStart) -> LookedUp:
        if arguments.allocation_id == "riddle":
            raise ZeroDivisionError
        return Done(Nothing()) if arguments.allocation_id in self.done else NOT_DONE


@asynccontextmanager
async def host(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, handler: Scripted
) -> AsyncIterator[None]:
    desk = CommandDesk(directory, {handler.kind.name: handler}, SimulatedPolicy())
    agent = Agent(identity, AbsentSource(), StatusFile(directory), desk, times=QUICK)
    number = len(plane.peers) + 1
    async with background(agent.run()):
        await plane.peer(number)
        yield


@pytest.fixture
def commander(plane: ControlPlane) -> Commander:
    plane.sample_interval = 3600.0
    return Commander(plane)


async def test_commands_of_one_allocation_wait_for_each_other_and_others_do_not(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    handler = Scripted()
    same = [commander.start("same") for _ in range(3)]
    others = [commander.start(f"other-{n}") for n in range(MAX_SIDE_BY_SIDE + 2)]
    async with host(plane, identity, directory, handler):
        await commander.give(*same, *others)
        await plane.until(lambda: len(handler.begun) == MAX_SIDE_BY_SIDE)
        await commander.settle()
        assert len(handler.begun) == MAX_SIDE_BY_SIDE, "no more than that at once"
        assert handler.begun.count("same") == 1
        handler.let_go.set()
        for command in (*same, *others):
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
    order = [event.command_id for event in commander.applied if event.state.is_end]
    assert [c for c in order if c in {s.id for s in same}] == [s.id for s in same]
    commander.check()


async def test_what_fails_says_why_and_ends_nothing_else(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    handler = Scripted()
    handler.let_go.set()
    names = ("fails", "breaks", "unwelcome", "good")
    fails, breaks, unwelcome, good = commands = [commander.start(name) for name in names]
    with capture_logs() as logs:
        async with host(plane, identity, directory, handler):
            await commander.give(*commands)
            failed, broken = await commander.outcome(fails), await commander.outcome(breaks)
            assert (await commander.outcome(good)).state is EventState.SUCCEEDED
            refused = await commander.outcome(unwelcome)
    assert (refused.state, refused.error_code) == (EventState.REFUSED, "UNWELCOME")
    assert commander.states(unwelcome) == ["ACCEPTED", "REFUSED"]
    assert "unwelcome" not in handler.begun
    assert (failed.state, failed.error_code) == (EventState.FAILED, "NO_SUCH_THING")
    assert failed.error_message == "Expected a thing, [31m got none."
    assert (broken.state, broken.error_code) == (EventState.FAILED, "INTERNAL")
    assert "ZeroDivisionError" in (broken.error_message or "")
    assert "nobody's business" not in (broken.error_message or "")
    assert any(line["event"] == "internal error" and line.get("exc_info") for line in logs)
    told = [event for event in commander.of(good) if event.step]
    assert [(event.step, event.progress) for event in told] == [("under way", 1.0)]


async def test_an_agent_that_is_stopped_takes_up_what_it_left(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    """Stopped in the middle of it, asked to cancel it while it was away, and asked too late."""
    first = Scripted()
    names = ("plain", "cancelled", "late", "riddle")
    plain, cancelled, late, riddle = commands = [commander.start(name) for name in names]
    async with host(plane, identity, directory, first):
        await commander.give(*commands)
        await plane.until(lambda: len(first.begun) == len(names))
    assert first.done == []
    second = Scripted()
    second.let_go.set()
    second.done.append("late")
    # Reached over the journal, as a cancel that came right before the end would have left it.
    journal = Journal(directory.path / FILE)
    for command in (cancelled, late):
        journal.cancel(command.id, at=wall_clock())
    journal.close()
    async with host(plane, identity, directory, second):
        assert (await commander.outcome(plain)).state is EventState.SUCCEEDED
        assert (await commander.outcome(cancelled)).state is EventState.CANCELLED
        assert (await commander.outcome(late)).state is EventState.SUCCEEDED
        assert (await commander.outcome(riddle)).state is EventState.INDETERMINATE
    assert second.begun == ["plain"]
    commander.check()


async def test_a_cancel_stops_what_can_be_stopped(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    handler = Scripted()
    stopped, done = commander.start("stopped"), commander.start("done")
    async with host(plane, identity, directory, handler):
        await commander.give(stopped, done)
        await plane.until(lambda: len(handler.begun) == 2)
        # The effect is there, though nobody has seen the end of it.
        handler.done.append("done")
        await commander.cancel(stopped)
        await commander.cancel(done)
        assert (await commander.outcome(stopped)).state is EventState.CANCELLED
        assert (await commander.outcome(done)).state is EventState.SUCCEEDED
    commander.check()


@pytest.mark.parametrize("ahead", [HOUR_MS, -HOUR_MS], ids=["ahead", "behind"])
async def test_a_deadline_that_passes_while_the_agent_is_down(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    commander: Commander,
    ahead: int,
) -> None:
    """Judged by the control plane's clock as it was last heard: no link tells it meanwhile."""
    plane.ahead = ahead
    async with host(plane, identity, directory, Scripted()):
        await commander.settle()
    passed = commander.start("passed", deadline=plane.clock - HOUR_MS // 2)
    good = commander.start("good", deadline=plane.clock + HOUR_MS // 2)
    journal = Journal(directory.path / FILE)
    assert abs(journal.clock_offset - ahead) < 60_000
    for command in (passed, good):
        journal.accept(command, end=None, at=wall_clock())
    journal.close()
    handler = Scripted()
    handler.let_go.set()
    desk = CommandDesk(directory, {handler.kind.name: handler}, SimulatedPolicy())
    async with background(desk.run()), asyncio.timeout(PATIENCE):
        assert await desk.announcement() is not None
        while (await desk.summary()).waiting or (await desk.summary()).running:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)
    assert handler.begun == ["good"]
    journal = Journal(directory.path / FILE)
    states = {e.command_id: e.state for e in journal.events(after=0, limit=10) if e.state.is_end}
    assert states == {passed.id: EventState.EXPIRED, good.id: EventState.SUCCEEDED}
    journal.close()

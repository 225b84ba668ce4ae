"""Commands through a whole agent: a real link, a real journal, the handlers of a simulated host."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from remotegpu_agent.agent import Agent
from remotegpu_agent.commands.policy import DEFAULT_PATH
from remotegpu_agent.identity import Identity
from remotegpu_agent.running import make_desk
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.simulated import SimulatedSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.inventory import Inventory, Policy
from remotegpu_protocol.kinds import ALLOCATION_END, KINDS, CleaningReport, read_result
from tests.agent.commands.commander import HOUR_MS, Commander
from tests.agent.control_plane import ControlPlane, background
from tests.agent.test_agent import QUICK


@asynccontextmanager
async def agent(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    *,
    kind: SourceKind = SourceKind.SIMULATED,
    policy: Path = DEFAULT_PATH,
) -> AsyncIterator[None]:
    """An agent that is connected."""
    source = SimulatedSource(seed=1, count=1)
    made = Agent(
        identity,
        source,
        StatusFile(directory),
        make_desk(directory, SourceSettings(kind), policy, source),
        times=QUICK,
    )
    number = len(plane.peers) + 1
    async with background(made.run()):
        await plane.peer(number)
        yield


@pytest.fixture
def commander(plane: ControlPlane) -> Commander:
    plane.sample_interval = 3600.0
    return Commander(plane)


async def test_the_life_of_an_allocation(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    start, update, end = commander.start(), commander.update(), commander.end()
    kept = directory.path / "allocations.json"
    async with agent(plane, identity, directory):
        peer = await plane.peer()
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        assert inventory.host.policy == Policy(sorted(KINDS), simulated=True)

        await commander.give(start, update)
        assert (await commander.outcome(update)).state is EventState.SUCCEEDED
        (allocation,) = json.loads(kept.read_bytes())
        assert (allocation["username"], allocation["gpu_uuids"]) == (
            "ada",
            ["GPU-2-of-allocation-1"],
        )

        await commander.give(end)
        ended = await commander.outcome(end)
    assert json.loads(kept.read_bytes()) == []
    for command in (start, update, end):
        assert commander.states(command) == ["ACCEPTED", "RUNNING", "SUCCEEDED"]
    steps = {event.step for event in commander.of(start) if event.step}
    assert {"preparing the account", "mounting storage"} <= steps
    assert ended.result is not None
    report = read_result(ALLOCATION_END, ended.result)
    assert isinstance(report, CleaningReport)
    assert (report.performed, report.verified, report.simulated) == (True, True, True)
    assert len(report.items) >= 5
    commander.check()
    # The first of an allocation was over before the second began.
    begun = next(e for e in commander.of(update) if e.state is EventState.RUNNING)
    assert commander.of(start)[-1].sequence < begun.sequence
    assert kept.stat().st_mode & 0o777 == 0o600
    assert (directory.path / "journal.db").stat().st_mode & 0o777 == 0o600


async def test_a_duplicate_is_answered_and_not_done_again(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    start = commander.start()
    async with agent(plane, identity, directory):
        await commander.give(start, start, start)
        await commander.outcome(start)
        assert commander.states(start) == ["ACCEPTED", "RUNNING", "SUCCEEDED"]
        # All is acknowledged by now, so it is told once more.
        before = len(commander.of(start))
        await commander.give(start)
        await plane.until(lambda: len(commander.of(start)) > before)
        first, again = commander.of(start)[-2:]
        assert again == msgspec.structs.replace(first, sequence=again.sequence, at=again.at)
    # And by a new process; what was not acknowledged in time comes again as it was.
    answers = commander.twice + len(commander.applied)
    async with agent(plane, identity, directory):
        await commander.give(start)
        await plane.until(lambda: commander.twice + len(commander.applied) > answers)
        await commander.settle()
    assert commander.states(start) == ["ACCEPTED", "RUNNING", "SUCCEEDED"]
    assert sum(event.state is EventState.RUNNING for event in commander.of(start)) == before - 2
    commander.check()


async def test_what_is_outdated_is_refused(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    late = commander.update(generation=3)
    older, newer = commander.start(generation=1), commander.end(generation=2)
    again = commander.end(generation=3)
    unordered = msgspec.structs.replace(commander.end(generation=3), sequence=0)
    elsewhere = commander.start("allocation-2", generation=1)
    async with agent(plane, identity, directory):
        await commander.give(late, older, newer, unordered, elsewhere, again)
        for command in (older, newer, unordered):
            refused = await commander.outcome(command)
            assert (refused.state, refused.error_code) == (EventState.REFUSED, "OUTDATED")
            assert commander.states(command) == ["REFUSED"]
        assert (await commander.outcome(again)).state is EventState.SUCCEEDED
        assert (await commander.outcome(elsewhere)).state is EventState.SUCCEEDED
        assert (await commander.outcome(late)).error_code == "NO_SUCH_ALLOCATION"
    commander.check()


@pytest.mark.parametrize("ahead", [0, HOUR_MS, -HOUR_MS], ids=["equal", "ahead", "behind"])
async def test_a_deadline_is_told_by_the_control_planes_clock(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    commander: Commander,
    ahead: int,
) -> None:
    plane.ahead = ahead
    passed = commander.start(deadline=plane.clock - 1000)
    ahead_of_us = commander.start("allocation-2", deadline=plane.clock + 60_000)
    async with agent(plane, identity, directory):
        await commander.give(passed, ahead_of_us)
        expired = await commander.outcome(passed)
        assert (expired.state, expired.error_code) == (EventState.EXPIRED, "DEADLINE_PASSED")
        assert commander.states(passed) == ["EXPIRED"]
        assert (await commander.outcome(ahead_of_us)).state is EventState.SUCCEEDED


async def test_a_deadline_passes_while_others_go_first(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    start = commander.start()
    # Taken on in time, and not begun in time: the start takes at least 0.15 s.
    late = commander.update(deadline=plane.clock + 120)
    async with agent(plane, identity, directory):
        late = msgspec.structs.replace(late, deadline=plane.clock + 120)
        await commander.give(start, late)
        assert (await commander.outcome(late)).state is EventState.EXPIRED
        assert commander.states(late) in (["ACCEPTED", "EXPIRED"], ["EXPIRED"])
        assert (await commander.outcome(start)).state is EventState.SUCCEEDED


async def test_cancels(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, commander: Commander
) -> None:
    start, update, over, unseen = (
        commander.start(),
        commander.update(),
        commander.start("allocation-2"),
        commander.start("allocation-3"),
    )
    async with agent(plane, identity, directory):
        await commander.give(over)
        await commander.outcome(over)
        # One that is under way and can be stopped, one that waits for it, one that is over, and
        # one that never came.
        await commander.give(start, update)
        await commander.reached(start, EventState.RUNNING)
        for command in (start, update, over, unseen):
            await commander.cancel(command)
        assert (await commander.outcome(update)).state is EventState.CANCELLED
        assert commander.states(update) == ["ACCEPTED", "CANCELLED"]
        assert (await commander.outcome(start)).state is EventState.CANCELLED
        assert (await commander.outcome(unseen)).state is EventState.CANCELLED
        # And when that one comes after all, it is not done.
        await commander.give(unseen)
        await plane.until(lambda: len(commander.of(unseen)) > 1)
        assert commander.states(unseen) == ["CANCELLED"]
        assert commander.states(over)[-1] == "SUCCEEDED"
    kept = json.loads((directory.path / "allocations.json").read_bytes())
    assert [allocation["id"] for allocation in kept] == ["allocation-2"]
    commander.check()


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.2, 0.3, 0.5, 0.7])
async def test_a_cancel_that_races_the_end_leaves_what_it_says(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    commander: Commander,
    pause: float,
) -> None:
    start = commander.start()
    async with agent(plane, identity, directory):
        await commander.give(start)
        await commander.settle(pause)
        await commander.cancel(start)
        ended = await commander.outcome(start)
        await commander.settle(0.1)
    assert ended.state in {EventState.SUCCEEDED, EventState.CANCELLED}
    kept = directory.path / "allocations.json"
    there = kept.exists() and json.loads(kept.read_bytes()) != []
    assert there is (ended.state is EventState.SUCCEEDED)
    assert sum(event.state.is_end for event in commander.of(start)) == 1
    commander.check()

"""A host that is not simulated: what its own policy file decides, whatever is sent."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from remotegpu_agent.agent import Agent
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.identity import Identity
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile, load_status
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.inventory import Inventory, Policy
from remotegpu_protocol.kinds import ALLOCATION_END, CleaningReport, read_result
from tests.agent.commands.commander import Commander
from tests.agent.control_plane import ControlPlane, background
from tests.agent.test_agent import QUICK


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir(mode=0o755)
    return directory / "policy.toml"


@pytest.fixture
def commander(plane: ControlPlane) -> Commander:
    plane.sample_interval = 3600.0
    return Commander(plane)


@asynccontextmanager
async def host(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, policy: Path
) -> AsyncIterator[None]:
    disk = DiskThread()
    source = AbsentSource()
    allowed = PolicyFile(policy, owner=os.geteuid())
    handlers = make_handlers(directory, disk, allowed, source)
    desk = CommandDesk(directory, handlers, allowed, disk=disk)
    agent = Agent(identity, source, StatusFile(directory), desk, times=QUICK)
    async with background(agent.run()):
        await plane.peer()
        yield


def allow(policy: Path, *kinds: str, more: str = "") -> None:
    policy.write_text(f"commands = {json.dumps(kinds)}\n{more}")
    policy.chmod(0o644)


def spoil(policy: Path) -> None:
    policy.chmod(0o666)


async def test_without_a_policy_a_host_is_monitored_only(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    policy: Path,
    commander: Commander,
) -> None:
    commands = [commander.start(), commander.update(), commander.end()]
    async with host(plane, identity, directory, policy):
        peer = await plane.peer()
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        assert inventory.host.policy is None
        await commander.give(*commands)
        for command in commands:
            refused = await commander.outcome(command)
            assert (refused.state, refused.error_code) == (EventState.REFUSED, "NOT_ALLOWED")
            assert "monitored only" in (refused.error_message or "")
            assert str(policy) in (refused.error_message or "")
            assert commander.states(command) == ["REFUSED"]
    assert not (directory.path / "allocations.json").exists()
    commander.check()


async def test_what_a_policy_allows_is_done_and_no_more(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    policy: Path,
    commander: Commander,
) -> None:
    allow(policy, "allocation.start", "allocation.end")
    start, update, end = commander.start(), commander.update(), commander.end()
    other = commander.start("allocation-2")
    foreign = msgspec.structs.replace(commander.start("allocation-4"), allocation_id="allocation-3")
    broken = msgspec.structs.replace(commander.start("allocation-5"), arguments=b"\xc1")
    shell = msgspec.structs.replace(commander.start("allocation-6"), kind="sh -c 'reboot'")
    kept = directory.path / "allocations.json"
    async with host(plane, identity, directory, policy):
        peer = await plane.peer()
        await plane.until(lambda: peer.of(Inventory))
        assert peer.of(Inventory)[0].host.policy == Policy(["allocation.end", "allocation.start"])
        await commander.give(start, update, foreign, broken, shell)
        assert (await commander.outcome(start)).state is EventState.SUCCEEDED
        assert (await commander.outcome(update)).error_code == "NOT_ALLOWED"
        assert (await commander.outcome(foreign)).error_code == "INVALID_ARGUMENTS"
        assert (await commander.outcome(broken)).error_code == "INVALID_ARGUMENTS"
        assert (await commander.outcome(shell)).error_code == "UNKNOWN_COMMAND"
        assert [allocation["id"] for allocation in json.loads(kept.read_bytes())] == [
            "allocation-1"
        ]

        await commander.give(end)
        ended = await commander.outcome(end)
        assert ended.result is not None
        # This agent cleans nothing yet, and does not say that it does.
        assert read_result(ALLOCATION_END, ended.result) == CleaningReport(performed=False)
        assert json.loads(kept.read_bytes()) == []

        # A change holds for the next command, and is told.
        spoil(policy)
        await commander.give(other)
        refused = await commander.outcome(other)
        assert refused.error_code == "NOT_ALLOWED"
        assert "mode 666" in (refused.error_message or "")
        told = (await plane.until(lambda: peer.of(Inventory)[1:]))[0].host.policy
        assert told is not None
        assert told.commands == []
        assert "mode 666" in (told.message or "")
        await asyncio.sleep(2.1)
        status = load_status(directory)
        assert status is not None
        assert status.commands is not None
        assert "mode 666" in (status.commands.trouble or "")
    commander.check()


async def test_cleaning_takes_the_owners_word_and_an_account(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    policy: Path,
    commander: Commander,
) -> None:
    """Without an account of its own, what an allocation left cannot be told from other people's."""
    allow(policy, "allocation.start", "allocation.end", more="cleaning = true\n")
    async with host(plane, identity, directory, policy):
        end = commander.end()
        await commander.give(end)
        event = await commander.outcome(end)
    report = read_result(ALLOCATION_END, event.result or b"")
    assert isinstance(report, CleaningReport)
    assert (report.performed, report.verified) == (False, False)
    assert "made no account" in (report.items[0].detail or "")

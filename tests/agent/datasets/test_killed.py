"""The whole agent, killed at every moment of mounting and unmounting."""

import asyncio

import msgspec
import pytest

from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import Command, EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    DATASET_MOUNT,
    DATASET_UNMOUNT,
    AllocationEnd,
    CleaningReport,
    DatasetMount,
    DatasetUnmount,
    pack_arguments,
    read_result,
)
from tests.agent.commands.commander import Commander
from tests.agent.commands.mortal import Death, died
from tests.agent.control_plane import ControlPlane
from tests.agent.datasets.doomed import alive
from tests.agent.datasets.host import (
    ADA,
    ALLOWED,
    Host,
    allocation_of,
    allow,
    as_user,
    dataset,
    traces,
)

pytestmark = [pytest.mark.isolated, pytest.mark.usefixtures("identity")]

_MOUNTING = ["recorded", "place made", "attached", "directories recorded", "linked"]
_UNMOUNTING = ["link removed", "detached", "source ended", "place removed", "forgotten"]


def mounting(commander: Commander, mount: DatasetMount) -> Command:
    return msgspec.structs.replace(
        commander.start(mount.allocation_id),
        kind=DATASET_MOUNT.name,
        arguments=pack_arguments(DATASET_MOUNT, mount),
    )


def unmounting(commander: Commander, mount: DatasetMount) -> Command:
    arguments = DatasetUnmount(mount.mount_id, mount.allocation_id)
    return msgspec.structs.replace(
        commander.start(mount.allocation_id),
        kind=DATASET_UNMOUNT.name,
        arguments=pack_arguments(DATASET_UNMOUNT, arguments),
    )


async def test_killed_at_every_moment(plane: ControlPlane, directory: StateDirectory) -> None:
    host = await asyncio.to_thread(Host, directory)
    plane.sample_interval = 3600.0
    commander = Commander(plane)
    before = traces(directory)
    mount = dataset()
    whole: list[str] | None = None
    for moment in _MOUNTING:
        command = mounting(commander, mount)
        with alive(directory, Death(moment)) as one:
            await commander.give(command)
            await died(one)
        assert traces(directory) != before, moment
        with alive(directory):
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED, moment
            # However it came about, it is the same.
            whole = whole or traces(directory)
            assert traces(directory) == whole
            assert as_user(ADA, "cat", f"{mount.path}/canary").stdout == "canary"
            command = unmounting(commander, mount)
            await commander.give(command)
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
        assert traces(directory) == before, moment
    for moment in _UNMOUNTING:
        command = mounting(commander, mount)
        with alive(directory):
            await commander.give(command)
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
        command = unmounting(commander, mount)
        with alive(directory, Death(moment)) as one:
            await commander.give(command)
            await died(one)
        with alive(directory):
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED, moment
        assert traces(directory) == before, moment
    # Not allowed any more when the agent is back: nothing of the half that was done is left.
    for moment in _MOUNTING:
        command = mounting(commander, mount)
        with alive(directory, Death(moment)) as one:
            await commander.give(command)
            await died(one)
        allow(ALLOWED.replace('"dataset.mount", ', ""))
        with alive(directory):
            state = (await commander.outcome(command)).state
        allow()
        if moment == "linked":
            # It was done, and only not told yet.
            assert state is EventState.SUCCEEDED
            assert traces(directory) == whole
            host.datasets.clear(ADA, lambda: None)
        else:
            assert state is EventState.REFUSED, moment
        assert traces(directory) == before, moment
    # And half of one is found when the allocation ends.
    command = mounting(commander, mount)
    with alive(directory, Death("attached")) as one:
        await commander.give(command)
        await died(one)
    end = msgspec.structs.replace(
        commander.end(mount.allocation_id),
        arguments=pack_arguments(ALLOCATION_END, AllocationEnd(mount.allocation_id)),
    )
    with alive(directory):
        await commander.give(end)
        event = await commander.outcome(end)
    report = read_result(ALLOCATION_END, event.result or b"")
    assert isinstance(report, CleaningReport)
    assert report.verified, report
    assert traces(directory) == before
    assert (host.imagenet / "canary").read_text() == "canary"
    assert allocation_of(ADA) not in (directory.path / "allocations.json").read_text()
    commander.check()

"""The whole agent, killed before and after each removal, on a host with something in every place."""

import asyncio
from pathlib import Path

import pytest

from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.gpu_access.access_list import read_access, write_access
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    AllocationStart,
    CleaningReport,
    pack_arguments,
    read_result,
)
from tests.agent.commands.commander import HOUR_MS, Commander
from tests.agent.commands.mortal import Death, died
from tests.agent.control_plane import ControlPlane
from tests.agent.gpu_access.devices import Devices
from tests.agent.reclaim.doomed import alive
from tests.agent.reclaim.isolation import own_uid, require_isolation
from tests.agent.reclaim.tenant import Tenant
from tests.agent.reclaim.test_hosts import PLANTED, steps_of
from tests.agent.stub import StubDriver

pytestmark = [pytest.mark.isolated, pytest.mark.usefixtures("identity")]

GPU = "GPU-00000000-0000-4000-8000-000000000000"
HOST = Path("/home/devices")
ON_GPUS = {"GPU device permissions", "GPU settings", "GPU clock locks"}
_POLICY = Path("/etc/remotegpu/policy.toml")
_ALLOWED = 'commands = ["allocation.start", "allocation.end"]\ncleaning = true\n'


def let_it_be_cleaned() -> None:
    """Where the agent looks for it: this host is the test's own."""
    require_isolation()
    _POLICY.parent.mkdir(mode=0o755, exist_ok=True)
    _POLICY.write_text(_ALLOWED)


async def test_killed_around_every_removal(
    plane: ControlPlane, directory: StateDirectory, driver: StubDriver
) -> None:
    let_it_be_cleaned()
    driver.tell({"card0.memory.used": 0, "card1.memory.used": 0})
    devices = Devices(HOST)
    host = driver.environment, HOST
    plane.sample_interval = 3600.0
    commander = Commander(plane)
    ada, bob = Tenant("rg-ada", own_uid(1)), Tenant("rg-bob", own_uid(2))
    ada.plant()
    bob.plant()
    kept = [line for line in bob.residue() if not line.startswith("process ")]
    name = ada.tenancy.allocation_id
    start = commander.start(
        name,
        arguments=pack_arguments(
            ALLOCATION_START, AllocationStart(name, "ada", False, [GPU], plane.clock + HOUR_MS)
        ),
    )
    end = commander.end(name, generation=2)
    with alive(directory.path, ada.account, Death(), *host):
        await plane.peer()
        await commander.give(start)
        assert (await commander.outcome(start)).state is EventState.SUCCEEDED
    both = {ada.uid: 6, bob.uid: 6}
    for name in ("nvidia3", "nvidiactl"):
        path = devices.path(name)
        write_access(path, read_access(path).changed(users=both, other=0))
    driver.set({"card0.compute_mode": 3, "card0.power.set": 1, "card0.locked.graphics": 210})
    driver.set({"card1.compute_mode": 2})
    await commander.give(end)
    surfaces = [step.surface for step in steps_of(ada) if step.surface in PLANTED | ON_GPUS]
    for surface in surfaces:
        for moment in ("found", "removed"):
            assert ada.residue()
            death = Death(f"{surface}: {moment}")
            with alive(directory.path, ada.account, death, *host) as one:
                await died(one)
            assert not [event for event in commander.of(end) if event.state.is_end]
    with alive(directory.path, ada.account, Death(), *host):
        event = await commander.outcome(end)
    assert (event.state, event.result is None) == (EventState.SUCCEEDED, False)
    report = read_result(ALLOCATION_END, event.result or b"")
    assert isinstance(report, CleaningReport)
    assert (report.performed, report.verified) == (True, True), report
    assert ada.residue() == []
    assert [line for line in bob.residue() if not line.startswith("process ")] == kept
    assert bob.processes()
    for name in ("nvidia3", "nvidiactl"):
        assert read_access(devices.path(name)).users == {bob.uid: 6}
    # Of the card that was ada's, and of no other.
    settings = driver.settings()
    assert settings["card0.compute_mode"] == settings["card0.locked.graphics"] == 0
    assert settings["card0.power.set"] == 700_000
    assert settings["card1.compute_mode"] == 2
    commander.check()
    assert AllocationStore(directory).load() == {}
    steps = {event.step for event in commander.of(end) if event.step}
    assert {f"cleaning: {surface}" for surface in surfaces} <= steps
    # What has been told twice is the same.
    with alive(directory.path, ada.account, Death(), *host):
        await asyncio.sleep(0.3)
    assert len([event for event in commander.of(end) if event.state.is_end]) == 1

"""The packaged unit of the agent, under the systemd that it is written for."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from remotegpu_agent.identity import Identity, store_identity
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import Event, EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    AllocationStart,
    CleaningReport,
    pack_arguments,
    read_result,
)
from tests.agent.commands.commander import HOUR_MS, Commander
from tests.agent.control_plane import ControlPlane
from tests.agent.reclaim.isolation import own_uid, require_isolation
from tests.agent.reclaim.resident import UNITS, Resident, make_key
from tests.agent.reclaim.tenant import tool
from tests.agent.reclaim.test_hosts import by_surface
from tests.agent.reclaim.test_systemd import LEFT

pytestmark = pytest.mark.booted

_DEPLOY = Path(__file__).parents[3] / "deploy"
_UNITS = Path("/etc/systemd/system")
#: Where systemd keeps what `systemctl set-property` sets.
_CONTROL = "/etc/systemd/system.control"
_NAME = "remotegpu-agent.service"
_DROP_IN = _UNITS / f"{_NAME}.d" / "cleaning.conf"
_ACCOUNT = "rg-abcdefgh2345"
_ALLOCATION = f"allocation-{_ACCOUNT}"
_POLICY = """
commands = ["allocation.start", "allocation.end", "account.keys"]
cleaning = true
"""
#: Where the unit looks for it.
_PROGRAM = f"""#!/bin/sh
exec {sys.executable} -P -c "from remotegpu_agent.cli import main; main()" "$@"
"""


def install(identity: Identity) -> None:
    """As docs/agent.md says."""
    require_isolation()
    state = StateDirectory(Path("/var/lib/remotegpu-agent"))
    state.create()
    store_identity(state, identity)
    program = Path("/opt/remotegpu/bin/remotegpu-agent")
    program.parent.mkdir(parents=True)
    program.write_text(_PROGRAM)
    program.chmod(0o755)
    settings = Path("/etc/remotegpu")
    settings.mkdir(mode=0o755)
    (settings / "policy.toml").write_text(_POLICY)
    (settings / "agent.env").write_text(
        f"PYTHONPATH={os.environ['PYTHONPATH']}\nREMOTEGPU_AGENT_GPU_SOURCE=none\n"
    )
    shutil.copy(_DEPLOY / _NAME, _UNITS / _NAME)


def start(*, loosened: bool) -> None:
    """The unit anew, with the drop-in for cleaning or without."""
    tool("systemctl", "stop", _NAME)
    _DROP_IN.unlink(missing_ok=True)
    if loosened:
        _DROP_IN.parent.mkdir(exist_ok=True)
        shutil.copy(_DEPLOY / f"{_NAME}.d" / "cleaning.conf", _DROP_IN)
    tool("systemctl", "daemon-reload")
    tool("systemctl", "start", _NAME)


def cleaning(event: Event) -> CleaningReport:
    report = read_result(ALLOCATION_END, event.result or b"")
    assert isinstance(report, CleaningReport)
    return report


async def test_accounts_and_cleaning_under_the_unit(
    plane: ControlPlane, identity: Identity, tmp_path: Path
) -> None:
    install(identity)
    plane.sample_interval = 3600.0
    commander = Commander(plane)
    key = make_key(tmp_path / "key")
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    ends_at = plane.clock + HOUR_MS
    arguments = pack_arguments(
        ALLOCATION_START,
        AllocationStart(_ALLOCATION, "ada", False, [], ends_at, _ACCOUNT, [public]),
    )
    bob = Resident.made("rg-bob", own_uid(2), tmp_path)
    bob.settle()

    # The unit as it is watches, and may change nothing.
    start(loosened=False)
    await plane.peer(1)
    early = commander.start(_ALLOCATION, arguments=arguments)
    await commander.give(early)
    refused = await commander.outcome(early)
    assert (refused.state, refused.error_code) == (EventState.REFUSED, "NOT_PROVABLE")

    start(loosened=True)
    await plane.peer(2)
    again = commander.start(_ALLOCATION, arguments=arguments, generation=2)
    await commander.give(again)
    assert (await commander.outcome(again)).state is EventState.SUCCEEDED
    ada = Resident(_ACCOUNT, key)
    ada.settle()
    # Whatever it starts, there is room for what cleans it.
    limit = int(tool("systemctl", "show", "-P", "TasksMax", f"user-{ada.uid}.slice"))
    assert limit < int(tool("systemctl", "show", "-P", "TasksMax", f"user-{bob.uid}.slice"))
    kept = f"user-{ada.uid}.slice.d"
    assert kept in tool("ls", _CONTROL)
    assert ada.units() >= UNITS

    start(loosened=False)
    await plane.peer(3)
    blind = commander.end(_ALLOCATION, generation=3)
    await commander.give(blind)
    report = cleaning(await commander.outcome(blind))
    assert not any(item.verified or item.removed for item in report.items)
    assert "cleaning.conf" in (report.items[0].detail or "")
    assert ada.units() >= UNITS

    start(loosened=True)
    await plane.peer(4)
    end = commander.end(_ALLOCATION, generation=4)
    await commander.give(end)
    report = cleaning(await commander.outcome(end))
    assert report.verified, [item for item in report.items if not item.verified]
    items = by_surface(report)
    assert {surface for surface in LEFT if not items[surface].found} == set()
    assert ada.residue() == []
    assert kept not in tool("ls", _CONTROL)
    assert not ada.may_enter()
    assert bob.units() >= UNITS

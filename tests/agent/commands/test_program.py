"""The real program with a simulated host: killed in the middle, seen by `status`, small."""

import json
from typing import Any

import psutil
import pytest

from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import EventState
from tests.agent.commands.commander import Commander
from tests.agent.control_plane import ControlPlane
from tests.agent.program import call, started

pytestmark = pytest.mark.usefixtures("identity")


async def test_killed_in_the_middle_of_a_command(
    plane: ControlPlane, directory: StateDirectory
) -> None:
    commander = Commander(plane)
    start, end = commander.start(), commander.end()
    where = ("--state-dir", str(directory.path))
    run = ("run", *where, "--gpu-source", "simulated", "--simulated-gpus", "1")
    async with started(*run) as process:
        await plane.peer()
        await commander.give(start, end)
        await commander.reached(start, EventState.RUNNING)
        process.kill()
        await process.wait()
    async with started(*run) as process:
        for command in (start, end):
            assert (await commander.outcome(command)).state is EventState.SUCCEEDED
        commander.check()
        # 70 MiB is the promise; this process has its journal open and has done two commands.
        assert psutil.Process(process.pid).memory_info().rss < 70 * 2**20

        async def shown() -> dict[str, Any]:
            found: dict[str, Any] = json.loads((await call("status", *where, "--json")).out)
            return found

        # The file that `status` reads is written now and then, not with every change.
        while not (status := await shown())["commands"] or status["commands"]["running"]:
            await commander.settle(0.1)
        assert status["commands"] == {
            "allowed": [
                *("account.keys", "allocation.end"),
                *("allocation.start", "allocation.update"),
                *("dataset.mount", "dataset.unmount"),
            ],
            "waiting": 0,
            "running": 0,
            "unacknowledged": 0,
            "trouble": None,
            "damaged": None,
        }
        text = (await call("status", *where)).out
        assert "dataset.mount, dataset.unmount allowed; 0 running" in text

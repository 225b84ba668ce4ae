"""Run on a host of its own: the real agent, over and over, each time killed at a moment at which it
was not killed before, until there is none left.

A moment is a step that it tells, a removal's beginning or end, or one of its journal.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Final

from remotegpu_agent.agent import AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.commands.desk import CommandDesk, DeskTimes
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import Report
from remotegpu_agent.commands.made_accounts import AllocationAccounts
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.reclaim.handler import Reclaim
from remotegpu_agent.running import run_agent
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import AllocationEnd, CleaningReport

_TIMES: Final = AgentTimes(pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.1, permanent=0.5))

#: What the file of moments says of one that was passed alive.
SPARED: Final = "spared"
DIED: Final = "died"


class Deaths:
    """The file of moments: a line each, how it went and its name. At one in `stride` it dies."""

    def __init__(self, path: Path, stride: int) -> None:
        self._path = path
        self._stride = stride
        self._known = [line.partition(" ")[2] for line in self._lines()]

    def __call__(self, moment: str) -> None:
        name = str(moment)
        if name in self._known:
            return
        dies = len(self._known) % self._stride == 0
        self._known.append(name)
        with self._path.open("a") as file:
            file.write(f"{DIED if dies else SPARED} {name}\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def _lines(self) -> list[str]:
        return self._path.read_text().splitlines() if self._path.exists() else []


class MortalReclaim(Reclaim):
    """Dies at what it tells, too: so also in places in which there is nothing to remove."""

    deaths: Deaths

    async def run(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        async def told(progress: Progress) -> None:
            await report(progress)
            self.deaths(progress.step or "")

        return await super().run(arguments, told)


def _live(directory: Path, deaths: Deaths) -> None:
    configure_logs("error", "console")
    state, disk, policy, source = (
        StateDirectory(directory),
        DiskThread(),
        PolicyFile(),
        NvmlSource(),
    )
    store, access = AllocationStore(state), GpuAccess(state, disk, policy)
    reclaim = MortalReclaim(
        *(store, state, disk, policy, AllocationAccounts(store, disk), source),
        access=access,
        witness=deaths,
    )
    reclaim.deaths = deaths
    handlers = make_handlers(state, disk, policy, source, access=access)
    desk = CommandDesk(
        state,
        {**handlers, reclaim.kind.name: reclaim},
        policy,
        disk=disk,
        access=access,
        times=DeskTimes(event_retry=0.3, reopen=0.2),
        witness=deaths,
    )
    run_agent(state, SourceSettings(SourceKind.NVML), times=_TIMES, desk=desk)


def main() -> None:
    """Arguments: the state directory, the file of moments, and the stride."""
    directory, moments, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    while True:
        # This process has no thread and no loop: its modules are all that is shared.
        child = os.fork()
        if child == 0:
            _live(directory, Deaths(moments, stride))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"the agent ended by itself: {status}")

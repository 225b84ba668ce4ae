"""An agent in a process of its own that kills itself at a chosen moment, and what it left behind.

The process is forked from one that has the agent's modules already, since many of them die here.
"""

import asyncio
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from remotegpu_agent.agent import AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.desk import CommandDesk, DeskTimes
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import NOT_DONE, UNKNOWN, Done, Handler, LookedUp, Report
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.running import run_agent
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import ALLOCATION_START, AllocationStart, Nothing
from tests.forking import CONTEXT

#: Moments of the effect, which are the handler's and not the journal's.
BEFORE_EFFECT = "before the effect"
AFTER_EFFECT = "after the effect"

_TIMES = AgentTimes(pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.1, permanent=0.5))


@dataclass(frozen=True)
class Death:
    """Killed when the moment comes for this time; never, when it does not come so often.

    `full`: the disk is full from then on instead, until `make_room`.
    """

    moment: str = ""
    time: int = 1
    full: bool = False


def fill_disk(process: int | None) -> None:
    """From now on the process cannot make any file longer, as on a disk that is full."""
    assert process is not None
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def make_room(process: int | None) -> None:
    assert process is not None
    resource.prlimit(
        process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )


class Effects:
    """The witness: a file to which each effect adds a line, on the disk when it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str) -> None:
        with self.path.open("ab") as file:
            file.write(f"{name}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def count(self) -> Counter[str]:
        return Counter(self.path.read_text().split()) if self.path.exists() else Counter()


class Mortal:
    """Counts moments, and ends the process without a word at the one that was chosen."""

    def __init__(self, death: Death) -> None:
        self._death = death
        self._seen: Counter[str] = Counter()

    def __call__(self, moment: str) -> None:
        self._seen[moment] += 1
        if moment == self._death.moment and self._seen[moment] == self._death.time:
            if self._death.full:
                fill_disk(os.getpid())
            else:
                os.kill(os.getpid(), signal.SIGKILL)


class EffectHandler(Handler[AllocationStart]):
    """Adds a line; whether it can be looked up is up to the test."""

    kind = ALLOCATION_START

    def __init__(self, effects: Effects, witness: Mortal, *, looks_up: bool) -> None:
        self._effects = effects
        self._witness = witness
        self._looks_up = looks_up

    async def run(self, arguments: AllocationStart, report: Report) -> Nothing:
        await report(Progress("about to", 0.5))
        self._witness(BEFORE_EFFECT)
        self._effects.add(arguments.allocation_id)
        self._witness(AFTER_EFFECT)
        return Nothing()

    async def look_up(self, arguments: AllocationStart) -> LookedUp:
        if not self._looks_up:
            return UNKNOWN
        return Done(Nothing()) if self._effects.count()[arguments.allocation_id] else NOT_DONE


def live(directory: Path, effects: Path, looks_up: bool, death: Death) -> None:
    """What the process does: the whole of `run`, lock, signals and all."""
    configure_logs("error", "console")
    state = StateDirectory(directory)
    witness = Mortal(death)
    disk = DiskThread()
    handler = EffectHandler(Effects(effects), witness, looks_up=looks_up)
    desk = CommandDesk(
        state,
        {handler.kind.name: handler},
        SimulatedPolicy(),
        disk=disk,
        times=DeskTimes(event_retry=0.3, reopen=0.2),
        witness=witness,
    )
    run_agent(state, SourceSettings(SourceKind.NONE), times=_TIMES, desk=desk)


@contextmanager
def alive(
    directory: StateDirectory,
    effects: Effects,
    *,
    looks_up: bool = True,
    death: Death | None = None,
) -> Iterator[BaseProcess]:
    """The agent as a process; it is killed at the end, if it still lives."""
    process = CONTEXT.Process(
        target=live, args=(directory.path, effects.path, looks_up, death or Death())
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(20)


async def died(process: BaseProcess) -> None:
    """Wait until it has killed itself."""
    async with asyncio.timeout(20):
        while process.is_alive():  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.01)
    assert process.exitcode == -signal.SIGKILL, process.exitcode

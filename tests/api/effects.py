"""A real agent whose effects leave a line each in a file: what was done, however often."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from remotegpu_agent.agent import Agent, AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.desk import CommandDesk, DeskTimes
from remotegpu_agent.commands.handler import NOT_DONE, Done, Handler, LookedUp, Report
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.identity import HostKey, Identity
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.sources.simulated import SimulatedSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    AllocationEnd,
    AllocationStart,
    CleanedSurface,
    CleaningReport,
    Nothing,
)
from remotegpu_protocol.surfaces import SURFACES
from tests.agent.commands.mortal import Effects
from tests.forking import CONTEXT
from tests.wall_clock import WallClock

TIMES = AgentTimes(pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.1, permanent=0.3))

#: Seconds that an effect takes: long enough to be stopped now and then.
_MOMENT = 0.03
#: And one that waits to be called off.
_LONG = 10.0


class _Start(Handler[AllocationStart]):
    kind = ALLOCATION_START
    stoppable = True

    def __init__(self, effects: Effects, owners: Effects, reluctant: set[str]) -> None:
        self._effects = effects
        self._owners = owners
        self._reluctant = reluctant

    async def run(self, arguments: AllocationStart, report: Report) -> Nothing:
        await report(Progress("about to", 0.5))
        late = not self._reluctant.isdisjoint(arguments.gpu_uuids)
        await asyncio.sleep(_LONG if late else _MOMENT)
        self._effects.add(f"start:{arguments.allocation_id}")
        self._owners.add(f"+:{arguments.allocation_id}:{','.join(arguments.gpu_uuids)}")
        return Nothing()

    async def look_up(self, arguments: AllocationStart) -> LookedUp:
        done = self._effects.count()[f"start:{arguments.allocation_id}"]
        return Done(Nothing()) if done else NOT_DONE


class _End(Handler[AllocationEnd]):
    kind = ALLOCATION_END

    def __init__(self, effects: Effects, owners: Effects) -> None:
        self._effects = effects
        self._owners = owners

    async def run(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        await asyncio.sleep(_MOMENT)
        self._effects.add(f"end:{arguments.allocation_id}")
        self._owners.add(f"-:{arguments.allocation_id}:")
        return _CLEAN

    async def look_up(self, arguments: AllocationEnd) -> LookedUp:
        done = self._effects.count()[f"end:{arguments.allocation_id}"]
        return Done(_CLEAN) if done else NOT_DONE


_CLEAN = CleaningReport(
    performed=True,
    verified=True,
    simulated=True,
    items=[CleanedSurface(surface, "none", 0, 0, verified=True) for surface in SURFACES],
)


class EffectHost:
    """A machine's key and directory; `running` is one life of its agent."""

    def __init__(self, folder: Path, name: str, *, state: Path | None = None) -> None:
        """`state` is where the agent keeps what it must not forget; by default in `folder`."""
        self.folder = folder
        self.name = name
        self._secret = HostKey.generate().secret()
        self.machine_id = ""
        self.effects = Effects(folder / "effects")
        #: Who got which GPUs here, and who gave theirs back, in the order in which it was done.
        self.owners = Effects(folder / "owners")
        #: UUIDs of GPUs that take long to give away.
        self.reluctant: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._state = state or folder / "state"
        self.clock = WallClock()
        self.state.create()

    @property
    def state(self) -> StateDirectory:
        """Made anew, since this object goes to other processes, and a lock does not."""
        return StateDirectory(self._state)

    async def hesitate(self, index: int) -> None:
        """Take long to give this GPU away."""
        report = await self._source(index + 1).inventory()
        self.reluctant.add(report.gpus[index].uuid)

    def _source(self, gpus: int) -> SimulatedSource:
        return SimulatedSource(seed=sum(self.name.encode()), count=gpus)

    async def make_machine(self) -> Machine:
        """Enrol it, within the open database."""
        machine = await Machine.create(
            name=self.name,
            name_key=self.name,
            public_key=HostKey(self._secret).public_key,
            created_at=now_ms(),
        )
        self.machine_id = str(machine.id)
        return machine

    @asynccontextmanager
    async def running(self, origin: str, *, gpus: int = 2) -> AsyncIterator[None]:
        task = self.start(origin, gpus=gpus)
        try:
            yield
        finally:
            await self.stop(task)

    def start(self, origin: str, *, gpus: int = 2) -> "asyncio.Task[None]":
        handlers: dict[str, Handler[Any]] = {
            handler.kind.name: handler
            for handler in (
                _Start(self.effects, self.owners, self.reluctant),
                _End(self.effects, self.owners),
            )
        }
        state = self.state
        agent = Agent(
            Identity(
                key=HostKey(self._secret),
                machine_id=self.machine_id,
                machine_name=self.name,
                origin=origin,
            ),
            self._source(gpus),
            StatusFile(state),
            CommandDesk(state, handlers, SimulatedPolicy(), times=DeskTimes(event_retry=0.5)),
            times=TIMES,
        )
        return asyncio.create_task(agent.run(), name=f"agent {self.name}")

    def process(self, origin: str, *, gpus: int = 2) -> BaseProcess:
        """The same in a process of its own, which ends only when it is killed."""
        process = CONTEXT.Process(target=_live, args=(self, origin, gpus))
        process.start()
        return process

    @staticmethod
    async def stop(task: "asyncio.Task[None]") -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _live(host: EffectHost, origin: str, gpus: int) -> None:
    host.clock.install()
    configure_logs("error", "console")

    async def forever() -> None:
        await host.start(origin, gpus=gpus)

    asyncio.run(forever())

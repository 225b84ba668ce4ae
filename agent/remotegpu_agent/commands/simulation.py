"""The same commands on a host that only pretends: steps that take a moment, and a report that says
of itself that nothing in it is real."""

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from remotegpu_agent.commands.allocations import EndAllocation, StartAllocation, UpdateAllocation
from remotegpu_agent.commands.handler import NOT_DONE, Handler, LookedUp, Report
from remotegpu_agent.commands.records import Progress
from remotegpu_protocol.kinds import (
    ACCOUNT_KEYS,
    DATASET_MOUNT,
    DATASET_UNMOUNT,
    AccountKeys,
    AllocationEnd,
    AllocationStart,
    AllocationUpdate,
    CleanedSurface,
    CleaningReport,
    DatasetMount,
    DatasetUnmount,
    Nothing,
)
from remotegpu_protocol.surfaces import SURFACES, Surface

#: Seconds that a step takes, at least and at most.
_QUICK: Final = (0.05, 0.3)

_START: Final = ("preparing the account", "mounting storage", "opening access")
_UPDATE: Final = ("changing what the account may use",)

#: Surfaces whose cleaning is shown as it goes on: a report has all of them, which would take long.
_SHOWN: Final = (
    Surface.PROCESSES,
    Surface.CONTAINERS,
    Surface.DATASETS,
    Surface.SHARED_MEMORY,
    Surface.TEMPORARY_FILES,
    Surface.HOME,
    Surface.GPU_MEMORY,
    Surface.ACCOUNT,
)


async def _pretend(steps: Sequence[str], report: Report) -> None:
    for number, step in enumerate(steps):
        await report(Progress(step, number / len(steps), "simulated"))
        await asyncio.sleep(random.uniform(*_QUICK))
    await report(Progress(steps[-1], 1.0, "simulated"))


class SimulatedStart(StartAllocation):
    stoppable = True

    async def run(self, arguments: AllocationStart, report: Report) -> Nothing:
        await _pretend(_START, report)
        return await super().run(arguments, report)


class SimulatedUpdate(UpdateAllocation):
    async def run(self, arguments: AllocationUpdate, report: Report) -> Nothing:
        await _pretend(_UPDATE, report)
        return await super().run(arguments, report)


class SimulatedKeys(Handler[AccountKeys]):
    kind = ACCOUNT_KEYS

    async def run(self, arguments: AccountKeys, report: Report) -> Nothing:
        await _pretend(("replacing the keys",), report)
        return Nothing()

    async def look_up(self, arguments: AccountKeys) -> LookedUp:
        return NOT_DONE


class SimulatedMount(Handler[DatasetMount]):
    kind = DATASET_MOUNT

    async def run(self, arguments: DatasetMount, report: Report) -> Nothing:
        await _pretend(("looking for the source", "mounting"), report)
        return Nothing()

    async def look_up(self, arguments: DatasetMount) -> LookedUp:
        return NOT_DONE


class SimulatedUnmount(Handler[DatasetUnmount]):
    kind = DATASET_UNMOUNT

    async def run(self, arguments: DatasetUnmount, report: Report) -> Nothing:
        await _pretend(("unmounting",), report)
        return Nothing()

    async def look_up(self, arguments: DatasetUnmount) -> LookedUp:
        return NOT_DONE


class SimulatedEnd(EndAllocation):
    async def run(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        await _pretend([f"cleaning: {surface}" for surface in _SHOWN], report)
        return await super().run(arguments, report)

    def cleaning(self) -> CleaningReport:
        return CleaningReport(
            performed=True,
            verified=True,
            simulated=True,
            items=[
                CleanedSurface(
                    surface, "none", found=0, removed=0, verified=True, detail="simulated"
                )
                for surface in SURFACES
            ],
        )

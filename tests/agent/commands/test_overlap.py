"""A host refuses what overlaps with what it has given away, whatever it is told."""

import asyncio

import pytest

from remotegpu_agent.commands.allocations import (
    AllocationStore,
    EndAllocation,
    Keeper,
    StartAllocation,
    UpdateAllocation,
)
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import AllocationEnd, AllocationStart, AllocationUpdate


class Host:
    def __init__(self, directory: StateDirectory) -> None:
        store, disk = AllocationStore(directory), DiskThread()
        self.kept = Keeper(store, disk)
        self._start = StartAllocation(store, disk)
        self._update = UpdateAllocation(store, disk)
        self._end = EndAllocation(store, disk)

    async def start(self, name: str, *gpus: str) -> str | None:
        """The code of the refusal. Without GPUs it is of the whole host."""
        arguments = AllocationStart(name, "ada", not gpus, list(gpus), 1_900_000_000_000)
        refused = await self._start.objection(arguments)
        if refused is None:
            await self._start.run(arguments, _ignore)
        return None if refused is None else refused.code

    async def update(self, name: str, *gpus: str) -> str | None:
        refused = await self._update.objection(AllocationUpdate(name, list(gpus), 1))
        return None if refused is None else refused.code

    async def end(self, name: str) -> None:
        await self._end.run(AllocationEnd(name), _ignore)


async def _ignore(_progress: Progress) -> None:
    """Nobody follows."""


@pytest.fixture
def host(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> Host:
    # Nobody is about to end anything here.
    monkeypatch.setattr("remotegpu_agent.commands.allocations._PAUSE", 0.0)
    return Host(directory)


async def test_what_somebody_has_is_not_given_to_another(host: Host) -> None:
    assert await host.start("a", "GPU-1", "GPU-2") is None
    assert await host.start("a", "GPU-1", "GPU-2") is None, "told again"
    assert await host.start("b", "GPU-2", "GPU-3") == "ALREADY_ALLOCATED"
    assert await host.start("whole") == "ALREADY_ALLOCATED"
    assert await host.start("c", "GPU-3") is None
    assert await host.update("c", "GPU-3", "GPU-1") == "ALREADY_ALLOCATED"
    assert await host.update("c", "GPU-3", "GPU-4") is None
    await host.end("a")
    await host.end("c")
    assert await host.start("whole") is None
    assert await host.start("d", "GPU-9") == "ALREADY_ALLOCATED"


async def test_what_is_over_is_in_nobodys_way(host: Host) -> None:
    """Whether it is clean is for the control plane to judge: it has the report, or an admin's word."""
    assert await host.start("a", "GPU-1") is None
    await host.kept.end("a")
    assert await host.start("b", "GPU-1") is None


async def test_an_end_that_comes_just_before_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remotegpu_agent.commands.allocations._PAUSE", 0.05)
    assert await host.start("a", "GPU-1") is None
    starting = asyncio.create_task(host.start("b", "GPU-1"))
    await asyncio.sleep(0)
    await host.end("a")
    assert await starting is None


async def test_records_that_cannot_be_read_give_nothing_away(
    host: Host, directory: StateDirectory
) -> None:
    directory.write("allocations.json", b"[{")
    assert await host.start("a", "GPU-1") == "STATE_DIRECTORY"

"""What every source of GPU samples looks like to the rest of the agent."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from remotegpu_agent.sources.settings import SettingsReply, Tuning, asked_about
from remotegpu_protocol.inventory import DriverState, GpuInventory
from remotegpu_protocol.metrics import GpuMetrics


@dataclass(frozen=True, slots=True)
class DriverReport:
    """The driver and the GPUs that it serves, lost ones included."""

    driver_state: DriverState
    message: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    gpus: list[GpuInventory] = field(default_factory=list)


class GpuSource(Protocol):
    """Reads GPUs. Nothing here blocks the event loop, and nothing here raises: what is wrong with
    a driver or a card is part of what a source reports."""

    @property
    def changed(self) -> asyncio.Event:
        """Set when sampling noticed that the inventory is no longer what it was."""
        ...

    async def start(self) -> None:
        """Begin; called once, before anything else."""
        ...

    async def inventory(self) -> DriverReport: ...

    async def sample(self) -> list[GpuMetrics]:
        """One sample of every known GPU; all null for one that cannot be read now."""
        ...

    async def tune(self, request: Tuning) -> SettingsReply:
        """Read or set what cards are set to. Each that is asked about is in the answer."""
        ...

    async def close(self) -> None:
        """Let go of everything, within a second."""
        ...


def unread(gpu: GpuInventory) -> GpuMetrics:
    """The sample of a GPU that cannot be read."""
    return GpuMetrics(index=gpu.index, uuid=gpu.uuid)


def untuned(request: Tuning, why: str) -> SettingsReply:
    """The answer where no card can be asked."""
    return SettingsReply(failed=dict.fromkeys(asked_about(request), why))

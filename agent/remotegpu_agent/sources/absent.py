"""The source of a host whose GPUs, if any, are none of the agent's business."""

import asyncio
from typing import Final

from remotegpu_agent.sources.settings import SettingsReply, Tuning
from remotegpu_agent.sources.source import DriverReport, untuned
from remotegpu_protocol.inventory import DriverState
from remotegpu_protocol.metrics import GpuMetrics

_OFF: Final = "GPUs are switched off by the setting gpu-source."


class AbsentSource:
    """A `GpuSource` without GPUs."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Nothing to start."""

    async def inventory(self) -> DriverReport:
        return DriverReport(DriverState.ABSENT, _OFF)

    async def sample(self) -> list[GpuMetrics]:
        return []

    async def tune(self, request: Tuning) -> SettingsReply:
        return untuned(request, _OFF)

    async def close(self) -> None:
        """Nothing to close."""

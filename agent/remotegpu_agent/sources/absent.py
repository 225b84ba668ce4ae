"""The source of a host whose GPUs, if any, are none of the agent's business."""

import asyncio

from remotegpu_agent.sources.source import DriverReport
from remotegpu_protocol.inventory import DriverState
from remotegpu_protocol.metrics import GpuMetrics


class AbsentSource:
    """A `GpuSource` without GPUs."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()

    async def start(self) -> None:
        """Nothing to start."""

    async def inventory(self) -> DriverReport:
        return DriverReport(DriverState.ABSENT, "GPUs are switched off by the setting gpu-source.")

    async def sample(self) -> list[GpuMetrics]:
        return []

    async def close(self) -> None:
        """Nothing to close."""

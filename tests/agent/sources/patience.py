"""Waiting for what a source reports."""

import asyncio
from collections.abc import Callable

from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.sources.source import DriverReport
from remotegpu_protocol.inventory import GpuHealth


async def until(
    source: NvmlSource, condition: Callable[[DriverReport], bool], *, seconds: float = 20.0
) -> DriverReport:
    """Sample and look, as the agent does, until the report is as it should be."""
    async with asyncio.timeout(seconds):
        while True:
            await source.sample()
            report = await source.inventory()
            if condition(report):
                return report
            await asyncio.sleep(0.05)


def healthy(report: DriverReport) -> bool:
    return bool(report.gpus) and all(gpu.health is GpuHealth.HEALTHY for gpu in report.gpus)

"""Sources that read the stub driver."""

from collections.abc import AsyncIterator

import pytest

from remotegpu_agent.sources.nvml import NvmlSource, NvmlTimes
from tests.agent.stub import StubDriver

#: Short where a test waits for them to pass, long where passing is the failure.
QUICK = NvmlTimes(
    sample_timeout=1.0,
    init_timeout=10.0,
    driver_retry=0.2,
    restart_first=0.1,
    restart_cap=0.2,
)


@pytest.fixture
async def nvml(driver: StubDriver) -> AsyncIterator[NvmlSource]:
    """A source on the installed driver."""
    source = NvmlSource(QUICK, environment=driver.environment)
    await source.start()
    yield source
    await source.close()


@pytest.fixture
async def late_nvml(no_driver: StubDriver) -> AsyncIterator[NvmlSource]:
    """A source on a host that has no driver yet."""
    source = NvmlSource(QUICK, environment=no_driver.environment)
    await source.start()
    yield source
    await source.close()

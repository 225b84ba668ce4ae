"""XID errors: what the driver says about its cards by itself."""

import pytest
from structlog.testing import capture_logs

from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_protocol.inventory import GpuHealth
from tests.agent.sources.patience import healthy, until
from tests.agent.stub import StubDriver

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
NOT_SUPPORTED = 3


async def test_an_error_of_a_card_is_told_until_its_driver_starts_anew(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    # From before the agent came: nobody is told of that.
    driver.tell({"card0.xids": "94"})
    before = await nvml.inventory()
    assert healthy(before)
    well = await nvml.sample()
    nvml.changed.clear()
    driver.tell({"card1.xids": "48 74:2 48 999"})
    with capture_logs() as logs:
        assert await nvml.sample() == well
    # Told at once, and not with the next look at the inventory.
    assert nvml.changed.is_set()
    assert [line["error"] for line in logs if line["event"] == "gpu error"] == [
        "XID 48: double-bit ECC error",
        "XID 74 (GPU instance 2): NVLink error",
        "XID 48: double-bit ECC error",
        "XID 999",
    ]
    report = await nvml.inventory()
    assert [gpu.health for gpu in report.gpus] == [GpuHealth.HEALTHY, GpuHealth.DEGRADED]
    assert report.gpus[1].health_reason == (
        "XID 48: double-bit ECC error; XID 74 (GPU instance 2): NVLink error; XID 999."
    )
    # It is not over by itself.
    nvml.changed.clear()
    assert await nvml.sample() == well
    assert await nvml.inventory() == report
    assert not nvml.changed.is_set()
    driver.tell(
        {
            "nvmlDeviceGetCount_v2.error": DRIVER_NOT_LOADED,
            "nvmlInitWithFlags.error": DRIVER_NOT_LOADED,
        }
    )
    await until(nvml, lambda report: report.gpus[1].health is GpuHealth.UNHEALTHY)
    driver.forget("nvmlDeviceGetCount_v2.error", "nvmlInitWithFlags.error")
    assert await until(nvml, healthy) == before
    # And the next one is heard again.
    driver.tell({"card0.xids": "94 95"})
    await nvml.sample()
    assert (await nvml.inventory()).gpus[0].health_reason == "XID 95: uncontained ECC error."


async def test_an_error_of_a_program_leaves_the_card_healthy(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    await nvml.inventory()
    nvml.changed.clear()
    driver.tell({"card0.xids": "13 31 43 45"})
    with capture_logs() as logs:
        await nvml.sample()
    assert sum(line["event"] == "gpu error" for line in logs) == 4
    assert healthy(await nvml.inventory())
    assert not nvml.changed.is_set()


async def test_a_card_that_fell_off_the_bus_says_why(driver: StubDriver, nvml: NvmlSource) -> None:
    before = await nvml.inventory()
    driver.tell({"card0.xids": "79", "card0.lost": GPU_IS_LOST})
    await nvml.sample()
    gone = (await nvml.inventory()).gpus[0]
    assert gone.health is GpuHealth.UNHEALTHY
    assert gone.health_reason == "GPU is lost (NVML 15); XID 79: GPU has fallen off the bus."
    driver.forget("card0.lost")
    assert await until(nvml, healthy) == before


async def test_more_errors_than_a_sample_takes(driver: StubDriver, nvml: NvmlSource) -> None:
    await nvml.inventory()
    driver.tell({"card0.xids": " ".join(map(str, range(200, 300)))})
    with capture_logs() as logs:
        await nvml.sample()
        assert sum(line["event"] == "gpu error" for line in logs) == 64
        await nvml.sample()
        assert sum(line["event"] == "gpu error" for line in logs) == 100
    reason = (await nvml.inventory()).gpus[0].health_reason or ""
    assert reason.startswith("XID 200; XID 201; ")
    assert reason.count("XID") == 8


@pytest.mark.parametrize(
    "function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"]
)
async def test_a_driver_without_events_has_everything_else(
    driver: StubDriver, nvml: NvmlSource, function: str
) -> None:
    driver.tell({f"{function}.error": NOT_SUPPORTED, "card0.xids": "48"})
    assert healthy(await nvml.inventory())
    assert [sample.utilization for sample in await nvml.sample()] == [40.0, 40.0]

"""Drivers and cards that come, go, fail and hang, through the real worker process."""

import asyncio
import os
import signal

import pytest
from structlog.testing import capture_logs

from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.sources.source import unread
from remotegpu_protocol.inventory import DriverState, GpuHealth
from tests.agent.sources.patience import healthy, until
from tests.agent.stub import StubDriver

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
MISMATCH = 18


async def test_no_driver_is_absent_and_one_installed_later_is_found(
    no_driver: StubDriver, late_nvml: NvmlSource
) -> None:
    report = await late_nvml.inventory()
    assert report.driver_state is DriverState.ABSENT
    assert "No NVIDIA driver" in (report.message or "")
    assert await late_nvml.sample() == []
    # A host without GPUs pays for no worker, but for the moments in which one looks again.
    async with asyncio.timeout(20):
        while late_nvml.worker_pid is not None:  # noqa: ASYNC110 - a process, which rings no bell
            await asyncio.sleep(0.005)
    late_nvml.changed.clear()
    no_driver.install()
    # Sampling alone finds it: nobody has to ask for the inventory.
    async with asyncio.timeout(20):
        while not late_nvml.changed.is_set():
            await late_nvml.sample()
            await asyncio.sleep(0.05)
    report = await late_nvml.inventory()
    assert report.driver_state is DriverState.READY
    assert len(await late_nvml.sample()) == len(report.gpus) == 2


async def test_a_library_that_does_not_load_is_a_failure_and_no_absence(
    no_driver: StubDriver, late_nvml: NvmlSource
) -> None:
    no_driver.install_garbage()
    report = await until(late_nvml, lambda report: report.driver_state is DriverState.FAILED)
    assert "libnvidia-ml.so.1" in (report.message or "")


@pytest.mark.parametrize(
    ("code", "text"), [(DRIVER_NOT_LOADED, "Driver Not Loaded"), (MISMATCH, "version mismatch")]
)
async def test_a_driver_that_does_not_initialise_fails_with_its_own_words(
    driver: StubDriver, nvml: NvmlSource, code: int, text: str
) -> None:
    driver.tell({"nvmlInitWithFlags.error": code})
    report = await until(nvml, lambda report: report.driver_state is DriverState.FAILED)
    assert text in (report.message or "")
    driver.forget("nvmlInitWithFlags.error")
    assert (await until(nvml, healthy)).driver_state is DriverState.READY


async def test_a_lost_card_is_unhealthy_and_the_rest_goes_on(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    await nvml.sample()
    nvml.changed.clear()
    driver.tell({"card0.lost": GPU_IS_LOST})
    with capture_logs() as logs:
        lost, other = await nvml.sample()
        assert nvml.changed.is_set()
    assert lost == unread(before.gpus[0])
    assert other.utilization == 40.0
    assert any(line["event"] == "gpu health changed" for line in logs)
    report = await nvml.inventory()
    assert report.driver_state is DriverState.READY
    assert [gpu.health for gpu in report.gpus] == [GpuHealth.UNHEALTHY, GpuHealth.HEALTHY]
    assert "GPU is lost" in (report.gpus[0].health_reason or "")
    # What the card was is not forgotten because it no longer tells.
    assert report.gpus[0].memory_total == before.gpus[0].memory_total
    assert report.gpus[0].serial == before.gpus[0].serial
    driver.forget("card0.lost")
    assert await until(nvml, healthy) == before


async def test_a_card_that_breaks_in_the_middle_of_a_reading(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    driver.tell({"card1.nvmlDeviceGetTemperature.error": GPU_IS_LOST})
    other, lost = await nvml.sample()
    assert lost == unread(before.gpus[1])
    assert other.temperature == 55.0


async def test_an_unplugged_card_stays_in_the_inventory_until_it_is_back(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    driver.tell(cards="1")
    report = await until(nvml, lambda report: not healthy(report))
    gone, here = sorted(report.gpus, key=lambda gpu: gpu.uuid)
    assert gone.uuid == before.gpus[0].uuid
    assert gone.health is GpuHealth.UNHEALTHY
    assert "Fell off the bus" in (gone.health_reason or "")
    # The driver numbers the rest anew; a card is its UUID.
    assert (here.uuid, here.index) == (before.gpus[1].uuid, 0)
    samples = {sample.uuid: sample for sample in await nvml.sample()}
    assert samples[gone.uuid].utilization is None
    assert samples[here.uuid].utilization == 40.0
    driver.tell(cards="0 1")
    assert await until(nvml, healthy) == before


async def test_a_new_card_is_noticed(driver: StubDriver, nvml: NvmlSource) -> None:
    await nvml.inventory()
    nvml.changed.clear()
    driver.tell(cards="0 1 2")
    assert len(await nvml.sample()) == 2
    assert nvml.changed.is_set()
    assert len((await nvml.inventory()).gpus) == 3
    assert len(await nvml.sample()) == 3


async def test_a_card_ill_from_the_start_is_told_without_a_uuid(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell({"card1.lost": GPU_IS_LOST})
    report = await nvml.inventory()
    assert len(report.gpus) == 1
    assert "GPU 1: GPU is lost" in (report.message or "")


async def test_a_driver_that_is_unloaded_takes_all_cards_with_it(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    driver.tell(
        {
            "nvmlDeviceGetCount_v2.error": DRIVER_NOT_LOADED,
            "nvmlInitWithFlags.error": DRIVER_NOT_LOADED,
        }
    )
    report = await until(nvml, lambda report: report.driver_state is DriverState.FAILED)
    assert [gpu.health for gpu in report.gpus] == [GpuHealth.UNHEALTHY] * 2
    assert await nvml.sample() == [unread(gpu) for gpu in before.gpus]
    driver.forget("nvmlDeviceGetCount_v2.error", "nvmlInitWithFlags.error")
    assert await until(nvml, healthy) == before


async def test_a_worker_that_dies_is_replaced(driver: StubDriver, nvml: NvmlSource) -> None:
    before = await nvml.inventory()
    assert nvml.worker_pid is not None
    os.kill(nvml.worker_pid, signal.SIGKILL)
    assert await nvml.sample() == [unread(gpu) for gpu in before.gpus]
    assert await until(nvml, healthy) == before

"""A driver that does not come back: from a call about one card, or from any at all."""

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.sources.source import unread
from remotegpu_protocol.inventory import DriverState, GpuHealth
from tests.agent.sources.conftest import QUICK
from tests.agent.sources.patience import healthy, until
from tests.agent.stub import StubDriver


async def test_a_card_that_hangs_changes_nothing_but_its_own_samples(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell(cards="0 1 2")
    before = await nvml.inventory()
    well = await nvml.sample()
    first_worker = nvml.worker_pid
    assert first_worker is not None
    nvml.changed.clear()
    driver.tell({"card1.nvmlDeviceGetPowerUsage.hang": 1})
    # Every sample has the others, and what hangs is null, from the first one on until after the
    # worker was replaced by another that hangs again.
    workers: set[int | None] = set()
    longest = 0.0
    while len(workers) < 3:
        began = time.monotonic()
        assert await nvml.sample() == [well[0], unread(before.gpus[1]), well[2]]
        longest = max(longest, time.monotonic() - began)
        workers.add(nvml.worker_pid)
        await asyncio.sleep(0.02)
    # A sample's limit is 1 s here, after which all cards would be null.
    assert longest < 1
    assert nvml.changed.is_set()
    report = await nvml.inventory()
    assert [gpu.health is GpuHealth.HEALTHY for gpu in report.gpus] == [True, False, True]
    assert "did not answer for this GPU within 1 s" in (report.gpus[1].health_reason or "")
    assert report.driver_state is DriverState.READY
    assert not psutil.pid_exists(first_worker)
    driver.forget("card1.nvmlDeviceGetPowerUsage.hang")
    assert await until(nvml, healthy) == before


async def test_a_card_that_hangs_for_a_moment_is_not_ill(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    well = await nvml.sample()
    worker = nvml.worker_pid
    nvml.changed.clear()
    driver.tell({"card0.nvmlDeviceGetName.hang": 1, "card0.nvmlDeviceGetTemperature.hang": 1})
    assert await nvml.sample() == [unread(before.gpus[0]), well[1]]
    # What it is is known from before.
    assert await nvml.inventory() == before
    driver.forget("card0.nvmlDeviceGetName.hang", "card0.nvmlDeviceGetTemperature.hang")
    async with asyncio.timeout(5):
        while await nvml.sample() != well:  # noqa: ASYNC110 - a driver rings no bell
            await asyncio.sleep(0.01)
    assert await nvml.inventory() == before
    assert not nvml.changed.is_set()
    assert nvml.worker_pid == worker


async def test_a_card_that_hangs_from_the_start_is_found_later(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell({"card0.nvmlDeviceGetUUID.hang": 1})
    report = await nvml.inventory()
    assert [gpu.index for gpu in report.gpus] == [1]
    assert report.message == "GPU 0: The driver has not answered yet."
    driver.forget("card0.nvmlDeviceGetUUID.hang")
    report = await until(nvml, lambda report: len(report.gpus) == 2)
    assert healthy(report)
    assert report.message is None


async def test_cards_that_keep_hanging_become_unhealthy(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    await nvml.inventory()
    driver.tell({"nvmlDeviceGetUtilizationRates.hang": 1})
    report = await until(
        nvml, lambda report: {gpu.health for gpu in report.gpus} == {GpuHealth.UNHEALTHY}
    )
    assert len(report.gpus) == 2


async def test_a_queue_of_events_that_hangs_keeps_no_sample_waiting(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    await nvml.inventory()
    well = await nvml.sample()
    driver.tell({"nvmlEventSetWait_v2.hang": 1, "card0.xids": "48"})
    for _ in range(3):
        assert await nvml.sample() == well
    driver.forget("nvmlEventSetWait_v2.hang")
    report = await until(nvml, lambda report: not healthy(report))
    assert "XID 48" in (report.gpus[0].health_reason or "")


async def test_a_driver_that_hangs_as_a_whole_is_killed_and_the_cards_come_back(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    before = await nvml.inventory()
    hung = nvml.worker_pid
    assert hung is not None
    nvml.changed.clear()
    driver.tell({"nvmlDeviceGetCount_v2.hang": 1})
    began = time.monotonic()
    assert await nvml.sample() == [unread(gpu) for gpu in before.gpus]
    assert 0.9 < time.monotonic() - began < 5
    assert not psutil.pid_exists(hung)
    assert nvml.changed.is_set()
    report = await nvml.inventory()
    assert {gpu.health for gpu in report.gpus} == {GpuHealth.DEGRADED}
    assert "did not answer within 1 s" in (report.gpus[0].health_reason or "")
    began = time.monotonic()
    await nvml.sample()
    assert time.monotonic() - began < 0.5
    driver.forget("nvmlDeviceGetCount_v2.hang")
    assert await until(nvml, healthy) == before
    assert nvml.worker_pid != hung


async def test_a_driver_that_keeps_hanging_makes_its_cards_unhealthy(driver: StubDriver) -> None:
    nvml = NvmlSource(replace(QUICK, init_timeout=3.0), environment=driver.environment)
    await nvml.start()
    try:
        await nvml.inventory()
        driver.tell({"nvmlDeviceGetCount_v2.hang": 1})
        report = await until(nvml, lambda report: report.driver_state is DriverState.FAILED)
        assert {gpu.health for gpu in report.gpus} == {GpuHealth.UNHEALTHY}
    finally:
        await nvml.close()


async def test_other_work_goes_on_while_a_call_hangs(driver: StubDriver, nvml: NvmlSource) -> None:
    await nvml.inventory()
    driver.tell({"nvmlDeviceGetCount_v2.hang": 1})
    sampling = asyncio.create_task(nvml.sample())
    beats = 0
    while not sampling.done():
        await asyncio.sleep(0.01)
        beats += 1
    assert beats > 20


async def test_closing_leaves_no_process_even_when_the_driver_hangs(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    await nvml.inventory()
    worker = nvml.worker_pid
    assert worker is not None
    driver.tell({"nvmlDeviceGetFanSpeed.hang": 1})
    sampling = asyncio.create_task(nvml.sample())
    await asyncio.sleep(0.2)
    sampling.cancel()
    began = time.monotonic()
    await asyncio.gather(sampling, nvml.close(), return_exceptions=True)
    assert time.monotonic() - began < 1.5
    assert not psutil.pid_exists(worker)


async def test_a_worker_ends_with_its_agent_in_the_middle_of_a_call(
    driver: StubDriver, tmp_path: Path
) -> None:
    script = tmp_path / "agent.py"
    script.write_text(
        "import asyncio\n"
        "from remotegpu_agent.sources.nvml import NvmlSource\n"
        "async def main():\n"
        "    source = NvmlSource()\n"
        "    await source.start()\n"
        "    await source.inventory()\n"
        "    print(source.worker_pid, flush=True)\n"
        "    await source.sample()\n"
        "asyncio.run(main())\n"
    )
    driver.tell({"nvmlDeviceGetFanSpeed.hang": 1})
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env=driver.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    line = b""
    while not line.strip().isdigit():
        line = await parent.stdout.readline()
        assert line, "The agent ended early."
    worker = psutil.Process(int(line))
    await asyncio.sleep(0.2)
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [worker], 10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE

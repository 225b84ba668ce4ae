"""What NVML says, through pynvml's real ctypes path and a compiled stub of the library."""

import os
import pwd

import pytest
from structlog.testing import capture_logs

from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_protocol.inventory import DriverState, GpuHealth
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess
from tests.agent.stub import StubDriver

GIB = 1024**3

#: Every call that a sample is made of, and the fields that are null without it.
FIELDS = {
    "nvmlDeviceGetUtilizationRates": {"utilization", "memory_controller_utilization"},
    "nvmlDeviceGetTemperature": {"temperature"},
    "nvmlDeviceGetPowerUsage": {"power"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit"},
    "nvmlDeviceGetClockInfo": {"sm_clock", "memory_clock"},
    "nvmlDeviceGetFanSpeed": {"fan_speed"},
    "nvmlDeviceGetTotalEccErrors": {"ecc_corrected", "ecc_uncorrected"},
}

NOT_SUPPORTED = 3
NO_PERMISSION = 4
FUNCTION_NOT_FOUND = 13
UNKNOWN = 999


def nulls(sample: GpuMetrics) -> set[str]:
    return {name for name in sample.__struct_fields__ if getattr(sample, name) is None}


async def test_everything_that_a_card_tells(driver: StubDriver, nvml: NvmlSource) -> None:
    driver.tell({"card1.utilization": 97, "card1.power": 612345, "card1.name": "NVIDIA H100"})
    report = await nvml.inventory()
    assert report.driver_state is DriverState.READY
    assert (report.driver_version, report.cuda_version) == ("570.86.15", "12.8")
    assert [gpu.model for gpu in report.gpus] == ["NVIDIA Stub 80GB", "NVIDIA H100"]
    card = report.gpus[1]
    assert card.memory_total == 80 * GIB
    assert card.pci_bus_id == "00000000:11:00.0"
    assert card.serial == "1650000000001"
    assert card.vbios_version == "96.00.74.00.01"
    assert card.power_limit_max == 700.0
    assert card.mig_enabled is False
    assert card.health is GpuHealth.HEALTHY
    assert (await nvml.sample())[1] == GpuMetrics(
        index=1,
        uuid=card.uuid,
        utilization=97.0,
        memory_controller_utilization=20.0,
        memory_used=10 * GIB,
        memory_total=80 * GIB,
        temperature=55.0,
        power=612.345,
        power_limit=700.0,
        sm_clock=1980,
        memory_clock=2619,
        fan_speed=30.0,
        ecc_corrected=0,
        ecc_uncorrected=1,
        throttle_reasons=4,
        processes=[],
    )


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND])
@pytest.mark.parametrize("function", FIELDS)
async def test_a_field_that_a_card_does_not_support_is_null_alone(
    driver: StubDriver, nvml: NvmlSource, function: str, code: int
) -> None:
    driver.tell({f"card0.{function}.error": code})
    await nvml.inventory()
    first, second = await nvml.sample()
    assert nulls(first) == FIELDS[function]
    assert nulls(second) == set()
    assert [gpu.health for gpu in (await nvml.inventory()).gpus] == [GpuHealth.HEALTHY] * 2


async def test_older_names_serve_where_newer_ones_are_missing(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell(
        {
            "nvmlDeviceGetMemoryInfo_v2.error": FUNCTION_NOT_FOUND,
            "nvmlDeviceGetCurrentClocksEventReasons.error": FUNCTION_NOT_FOUND,
            "nvmlDeviceGetComputeRunningProcesses_v3.error": FUNCTION_NOT_FOUND,
            "card0.compute": "4000000:1048576",
        }
    )
    await nvml.inventory()
    sample = (await nvml.sample())[0]
    assert sample.memory_used == 10 * GIB
    assert sample.throttle_reasons == 8
    assert [process.pid for process in sample.processes or []] == [4_000_000]


async def test_one_unknown_error_is_one_field_and_two_are_the_card(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    await nvml.inventory()
    nvml.changed.clear()
    driver.tell({"card0.nvmlDeviceGetFanSpeed.error": UNKNOWN})
    assert nulls((await nvml.sample())[0]) == {"fan_speed"}
    assert not nvml.changed.is_set()
    driver.tell({"card0.nvmlDeviceGetPowerUsage.error": UNKNOWN})
    first, second = await nvml.sample()
    assert nulls(first) == set(first.__struct_fields__) - {"index", "uuid"}
    assert nulls(second) == set()
    assert nvml.changed.is_set()
    card = (await nvml.inventory()).gpus[0]
    assert card.health is GpuHealth.UNHEALTHY
    assert "Unknown Error" in (card.health_reason or "")


async def test_an_older_name_that_fails_too_does_not_make_one_field_two(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell(
        {
            "card0.nvmlDeviceGetCurrentClocksEventReasons.error": UNKNOWN,
            "card0.nvmlDeviceGetCurrentClocksThrottleReasons.error": UNKNOWN,
        }
    )
    await nvml.inventory()
    assert nulls((await nvml.sample())[0]) == {"throttle_reasons"}


@pytest.mark.parametrize(
    ("key", "value", "fields"),
    [
        ("utilization", 255, {"utilization"}),
        ("utilization", 0xFFFFFFFF, {"utilization"}),
        ("utilization.memory", 101, {"memory_controller_utilization"}),
        ("temperature", 4000, {"temperature"}),
        ("temperature", 0xFFFFFFFB, {"temperature"}),
        ("power", 4_000_000_000, {"power"}),
        ("power.limit", 0xFFFFFFFF, {"power_limit"}),
        ("clock.sm", 0xFFFFFFFF, {"sm_clock"}),
        ("clock.memory", 1_000_000, {"memory_clock"}),
        ("fan", 0xFFFFFFFF, {"fan_speed"}),
        ("memory.used", 81 * GIB, {"memory_used"}),
        ("memory.used", 2**64 - 1, {"memory_used"}),
        ("memory.total", 2**64 - 1, {"memory_total"}),
        ("ecc.corrected", 2**64 - 1, {"ecc_corrected"}),
        ("ecc.uncorrected", 2**63, {"ecc_uncorrected"}),
        ("reasons", 2**64 - 1, {"throttle_reasons"}),
    ],
)
async def test_values_that_cannot_be_are_null_and_told_once(
    driver: StubDriver, nvml: NvmlSource, key: str, value: int, fields: set[str]
) -> None:
    driver.tell({f"card1.{key}": value})
    with capture_logs() as logs:
        await nvml.inventory()
        samples = [await nvml.sample() for _ in range(3)]
    for first, second in samples:
        assert nulls(first) == set()
        assert nulls(second) == fields
    told = [line for line in logs if line["event"] == "nvml"]
    assert 1 <= len(told) == len({line["remark"] for line in told})
    assert {line["gpu"] for line in told} == {samples[0][1].uuid}


async def test_a_fan_above_its_maximum_is_at_its_maximum(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell({"card0.fan": 107})
    await nvml.inventory()
    assert (await nvml.sample())[0].fan_speed == 100.0


async def test_texts_that_are_not_utf8_come_through(driver: StubDriver, nvml: NvmlSource) -> None:
    driver.tell(
        {
            "card0.name": b"NVIDIA \xff\xfe H100",
            "card0.serial": b"\x80123",
            "card0.vbios": b"96\x9b2J",
            "card0.pci": b"\xff0000:10:00.0",
            "driver_version": b"570.\xe9",
        }
    )
    report = await nvml.inventory()
    card = report.gpus[0]
    assert card.model == "NVIDIA \ufffd\ufffd H100"
    assert card.serial == "\ufffd123"
    assert card.vbios_version == "96\ufffd2J"
    assert card.pci_bus_id == "\ufffd0000:10:00.0"
    assert report.driver_version == "570.\ufffd"
    assert card.health is GpuHealth.HEALTHY


async def test_an_error_without_a_known_name_is_described(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    driver.tell({"nvmlDeviceGetCount_v2.error": 4242})
    report = await nvml.inventory()
    assert report.driver_state is DriverState.FAILED
    assert "stub error" in (report.message or "")
    assert "4242" in (report.message or "")


async def test_processes_are_merged_named_and_attributed(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    own, gone = os.getpid(), 4_100_000
    driver.tell(
        {
            # In MIG mode a process is in a list once for each of its instances.
            "card0.compute": f"{own}:1000 {own}:500 {gone}:n/a",
            "card0.graphics": f"{own}:1500 7:3000",
        }
    )
    await nvml.inventory()
    processes = (await nvml.sample())[0].processes
    assert processes is not None
    assert [process.pid for process in processes] == [7, own, gone]
    by_pid = {process.pid: process for process in processes}
    assert by_pid[own].memory_used == 1500
    assert by_pid[own].username == pwd.getpwuid(os.getuid()).pw_name
    assert by_pid[own].name
    assert by_pid[gone] == GpuProcess(pid=gone)


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("7:3000 0:5", "lists a process 0, which cannot be"),
        ("7:3000 4294967295:5", "lists a process 4294967295"),
        # More than the card has.
        ("7:3000 8:9223372036854775807", "a process with 9223372036854775807 bytes"),
    ],
)
async def test_a_list_of_another_versions_layout_is_not_shown(
    driver: StubDriver, nvml: NvmlSource, listed: str, reason: str
) -> None:
    driver.tell({"card0.graphics": listed, "card1.compute": "9:10"})
    version = (await nvml.inventory()).driver_version
    with capture_logs() as logs:
        samples = await nvml.sample()
    # Nor what the same driver says of other cards from then on.
    assert [sample.processes for sample in samples[:2]] == [None, None]
    assert samples[0].utilization is not None
    said = [
        entry for entry in logs if f"The driver {version}" in str(entry) and reason in str(entry)
    ]
    assert said, logs
    driver.tell({"card0.graphics": "7:3000", "card1.compute": "9:10"})
    assert (await nvml.sample())[0].processes is None


async def test_more_processes_than_a_sample_holds(driver: StubDriver, nvml: NvmlSource) -> None:
    driver.tell({"card0.compute": " ".join(f"{4_190_000 + n}:{n}" for n in range(200))})
    await nvml.inventory()
    processes = (await nvml.sample())[0].processes
    assert processes is not None
    assert [process.memory_used for process in processes[:2]] == [199, 198]
    assert len(processes) == 128


async def test_mig_instances_are_listed(driver: StubDriver, nvml: NvmlSource) -> None:
    driver.tell(
        {
            "card0.mig": 1,
            "card0.mig0.uuid": "MIG-a",
            "card0.mig0.name": "NVIDIA H100 MIG 1g.10gb",
            "card0.mig0.memory.total": 10 * GIB,
            "card0.mig0.gpu_instance": 9,
            "card0.mig2.uuid": "MIG-b",
            "card0.mig2.nvmlDeviceGetComputeInstanceId.error": NOT_SUPPORTED,
            "card1.nvmlDeviceGetMigMode.error": NOT_SUPPORTED,
        }
    )
    first, second = (await nvml.inventory()).gpus
    assert first.mig_enabled is True
    assert [device.uuid for device in first.mig_devices] == ["MIG-a", "MIG-b"]
    assert first.mig_devices[0].name == "NVIDIA H100 MIG 1g.10gb"
    assert first.mig_devices[0].memory_total == 10 * GIB
    assert first.mig_devices[0].gpu_instance_id == 9
    assert first.mig_devices[1].compute_instance_id is None
    assert (second.mig_enabled, second.mig_devices) == (None, [])

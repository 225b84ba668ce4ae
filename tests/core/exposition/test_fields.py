"""Names, kinds and units against those of the exporters whose boards are to fit."""

import pytest
from msgspec.structs import replace

from remotegpu_core.exposition.gpu_fields import GPU_FIELDS
from remotegpu_core.exposition.host_fields import HOST_FIELDS
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics
from tests.layout.house import ROOT

MIB = 1024**2

# dcgm-exporter's default-counters.csv, and for what is not in it DCGM's dcgm_fields.h: kind, and
# the word by which our description names the unit.
DCGM = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "MHz"),
    "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "MHz"),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "Celsius"),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "watts"),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "percent"),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("gauge", "percent"),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "MiB"),
    "DCGM_FI_DEV_FB_USED": ("gauge", "MiB"),
    "DCGM_FI_DEV_FB_TOTAL": ("gauge", "MiB"),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": ("counter", "errors"),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": ("counter", "errors"),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("gauge", "watts"),
    "DCGM_FI_DEV_FAN_SPEED": ("gauge", "percent"),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("gauge", "mask"),
}

FULL_GPU = GpuMetrics(
    index=3,
    uuid="GPU-3",
    utilization=87.5,
    memory_controller_utilization=41.0,
    memory_used=10 * MIB + 1,
    memory_total=80 * MIB,
    temperature=61.0,
    power=312.5,
    power_limit=700.0,
    sm_clock=1980,
    memory_clock=2619,
    fan_speed=30.0,
    ecc_corrected=7,
    ecc_uncorrected=2,
    throttle_reasons=0x24,
)


def test_gpu_fields_are_the_exporters() -> None:
    assert {field.name: field.kind for field in GPU_FIELDS} == {
        name: kind for name, (kind, _) in DCGM.items()
    }
    for field in GPU_FIELDS:
        assert DCGM[field.name][1] in field.help, field.name


def test_every_field_is_documented() -> None:
    told = (ROOT / "docs" / "monitoring.md").read_text()
    names = [gpu.name for gpu in GPU_FIELDS] + [host.name for host in HOST_FIELDS]
    assert [name for name in names if f"`{name}`" not in told] == []


def test_gpu_values_have_the_exporters_units() -> None:
    assert {field.name: field.value(FULL_GPU) for field in GPU_FIELDS} == {
        "DCGM_FI_DEV_GPU_UTIL": 87.5,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 41.0,
        "DCGM_FI_DEV_FB_TOTAL": 80,
        "DCGM_FI_DEV_FB_USED": 10,
        "DCGM_FI_DEV_FB_FREE": 69,
        "DCGM_FI_DEV_GPU_TEMP": 61.0,
        "DCGM_FI_DEV_POWER_USAGE": 312.5,
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": 700.0,
        "DCGM_FI_DEV_SM_CLOCK": 1980,
        "DCGM_FI_DEV_MEM_CLOCK": 2619,
        "DCGM_FI_DEV_FAN_SPEED": 30.0,
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": 7,
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": 2,
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 0x24,
    }


def test_host_values_have_node_exporters_meaning() -> None:
    host = HostMetrics(
        cpu_utilization=12.5,
        memory_used=8 * MIB,
        memory_total=64 * MIB,
        swap_used=1 * MIB,
        swap_total=4 * MIB,
        load1=1.5,
        load5=1.25,
        load15=1.0,
        network_receive_bytes_per_second=1000.0,
        network_transmit_bytes_per_second=2000.0,
        disk_used=5 * MIB,
        disk_total=9 * MIB,
        uptime_seconds=3600.5,
    )
    assert {field.name: field.value(host) for field in HOST_FIELDS} == {
        "node_load1": 1.5,
        "node_load5": 1.25,
        "node_load15": 1.0,
        "node_memory_MemTotal_bytes": 64 * MIB,
        "node_memory_MemAvailable_bytes": 56 * MIB,
        "node_memory_SwapTotal_bytes": 4 * MIB,
        "node_memory_SwapFree_bytes": 3 * MIB,
        "remotegpu_host_cpu_utilization_ratio": 0.125,
        "remotegpu_host_network_receive_bytes_per_second": 1000.0,
        "remotegpu_host_network_transmit_bytes_per_second": 2000.0,
        "remotegpu_host_disk_size_bytes": 9 * MIB,
        "remotegpu_host_disk_used_bytes": 5 * MIB,
        "remotegpu_host_uptime_seconds": 3600.5,
    }


@pytest.mark.parametrize("part", ["memory_used", "memory_total"])
def test_half_of_a_difference_is_no_value(part: str) -> None:
    gpu = replace(GpuMetrics(index=0, uuid="GPU-0"), **{part: MIB})
    host = HostMetrics(**{part: MIB})
    assert next(f for f in GPU_FIELDS if f.name == "DCGM_FI_DEV_FB_FREE").value(gpu) is None
    available = next(f for f in HOST_FIELDS if f.name == "node_memory_MemAvailable_bytes")
    assert available.value(host) is None


def test_what_a_card_does_not_support_is_no_value() -> None:
    assert {field.value(GpuMetrics(index=0, uuid="GPU-0")) for field in GPU_FIELDS} == {None}
    assert {field.value(HostMetrics()) for field in HOST_FIELDS} == {None}

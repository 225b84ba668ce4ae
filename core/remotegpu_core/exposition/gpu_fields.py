"""GPUs under the names and units of NVIDIA's dcgm-exporter, so that its boards and rules fit.

Names and units are those of DCGM's field identifiers (`dcgm_fields.h`) and of the exporter's
`default-counters.csv`; memory is in MiB, as DCGM has it.
"""

from typing import Final

from remotegpu_core.exposition.family import Field
from remotegpu_protocol.metrics import GpuMetrics

_MIB: Final = 1024 * 1024


def _mib(size: int | None) -> int | None:
    return None if size is None else size // _MIB


def _free(gpu: GpuMetrics) -> int | None:
    if gpu.memory_used is None or gpu.memory_total is None:
        return None
    # What the driver keeps for itself is measured by nobody and counts as free.
    return max(gpu.memory_total - gpu.memory_used, 0) // _MIB


GPU_FIELDS: Final[tuple[Field[GpuMetrics], ...]] = (
    Field(
        "DCGM_FI_DEV_GPU_UTIL",
        "gauge",
        "Share of the time in which a kernel ran, in percent.",
        lambda gpu: gpu.utilization,
    ),
    Field(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "gauge",
        "Share of the time in which memory was read or written, in percent.",
        lambda gpu: gpu.memory_controller_utilization,
    ),
    Field(
        "DCGM_FI_DEV_FB_TOTAL",
        "gauge",
        "Memory of the GPU, in MiB.",
        lambda gpu: _mib(gpu.memory_total),
    ),
    Field(
        "DCGM_FI_DEV_FB_USED", "gauge", "Memory in use, in MiB.", lambda gpu: _mib(gpu.memory_used)
    ),
    Field(
        "DCGM_FI_DEV_FB_FREE",
        "gauge",
        "Memory not in use, in MiB; what the driver reserves for itself is part of it.",
        _free,
    ),
    Field(
        "DCGM_FI_DEV_GPU_TEMP",
        "gauge",
        "Temperature, in degrees Celsius.",
        lambda gpu: gpu.temperature,
    ),
    Field("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power drawn, in watts.", lambda gpu: gpu.power),
    Field(
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT",
        "gauge",
        "Power limit that the driver enforces, all limiters considered, in watts.",
        lambda gpu: gpu.power_limit,
    ),
    Field("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock, in MHz.", lambda gpu: gpu.sm_clock),
    Field("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock, in MHz.", lambda gpu: gpu.memory_clock),
    Field(
        "DCGM_FI_DEV_FAN_SPEED",
        "gauge",
        "Fan speed, in percent of its maximum.",
        lambda gpu: gpu.fan_speed,
    ),
    Field(
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
        "counter",
        "Corrected (single-bit) ECC errors in the life of the card.",
        lambda gpu: gpu.ecc_corrected,
    ),
    Field(
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        "counter",
        "Uncorrected (double-bit) ECC errors in the life of the card.",
        lambda gpu: gpu.ecc_uncorrected,
    ),
    Field(
        "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
        "gauge",
        "Why clocks are held down: NVML's bit mask nvmlClocksEventReasons.",
        lambda gpu: gpu.throttle_reasons,
    ),
)

#: What a GPU is: one series each, to be joined to the others.
GPU_INFO_FIELDS: Final[tuple[Field[GpuMetrics], ...]] = (
    Field("remotegpu_gpu_info", "gauge", "What the GPU is, in labels.", lambda _: 1),
)

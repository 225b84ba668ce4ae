"""One sample of a host and its GPUs.

Hot structs travel as arrays in the order of their fields. A field that the hardware does not
support, or whose reading made no sense, is null. New fields are added at the end.
"""

from typing import Annotated

from msgspec import Meta, Struct

from remotegpu_protocol.limits import MAX_GPUS, MAX_PROCESSES_PER_GPU
from remotegpu_protocol.values import (
    ByteCount,
    Celsius,
    Count,
    Index,
    Load,
    Megahertz,
    Percent,
    ProcessId,
    Rate,
    RawIdentifier,
    RawText,
    Seconds,
    Timestamp,
    Watts,
)


class GpuProcess(Struct, frozen=True, array_like=True, gc=False):
    """A process that holds memory on a GPU, as NVML reports it."""

    pid: ProcessId
    name: RawText | None = None
    username: RawText | None = None
    memory_used: ByteCount | None = None


class GpuMetrics(Struct, frozen=True, array_like=True, gc=False):
    """What one GPU did. Names are NVML's where NVML has one.

    Units: utilisation in percent, memory in bytes, temperature in degrees Celsius, power in
    watts, clocks in MHz, fan speed in percent of its maximum. ECC counts are the aggregate
    (lifetime) ones. `throttle_reasons` is NVML's bit mask (nvmlClocksEventReasons).
    """

    index: Index
    uuid: RawIdentifier
    utilization: Percent | None = None
    memory_controller_utilization: Percent | None = None
    memory_used: ByteCount | None = None
    memory_total: ByteCount | None = None
    temperature: Celsius | None = None
    power: Watts | None = None
    power_limit: Watts | None = None
    sm_clock: Megahertz | None = None
    memory_clock: Megahertz | None = None
    fan_speed: Percent | None = None
    ecc_corrected: Count | None = None
    ecc_uncorrected: Count | None = None
    throttle_reasons: Count | None = None
    processes: Annotated[list[GpuProcess], Meta(max_length=MAX_PROCESSES_PER_GPU)] | None = None


class HostMetrics(Struct, frozen=True, array_like=True, gc=False):
    """What the host did: percent of all cores, bytes, bytes per second, load averages."""

    cpu_utilization: Percent | None = None
    memory_used: ByteCount | None = None
    memory_total: ByteCount | None = None
    swap_used: ByteCount | None = None
    swap_total: ByteCount | None = None
    load1: Load | None = None
    load5: Load | None = None
    load15: Load | None = None
    network_receive_bytes_per_second: Rate | None = None
    network_transmit_bytes_per_second: Rate | None = None
    disk_used: ByteCount | None = None
    disk_total: ByteCount | None = None
    uptime_seconds: Seconds | None = None


class Metrics(Struct, frozen=True, tag_field="type", tag="metrics"):
    """A sample. `sampled_at` is the agent's clock in milliseconds since the Unix epoch."""

    sampled_at: Timestamp
    host: HostMetrics
    gpus: Annotated[list[GpuMetrics], Meta(max_length=MAX_GPUS)]

"""Hosts under node_exporter's names where the meaning is the same, under ours where it is not.

node_exporter counts bytes on the network and seconds of CPU time; an agent reports rates, which are
something else and have other names here.
"""

from typing import Final

from remotegpu_core.exposition.family import Field
from remotegpu_protocol.metrics import HostMetrics


def _difference(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else max(whole - part, 0)


HOST_FIELDS: Final[tuple[Field[HostMetrics], ...]] = (
    Field("node_load1", "gauge", "Load average of one minute.", lambda host: host.load1),
    Field("node_load5", "gauge", "Load average of five minutes.", lambda host: host.load5),
    Field("node_load15", "gauge", "Load average of fifteen minutes.", lambda host: host.load15),
    Field(
        "node_memory_MemTotal_bytes", "gauge", "Memory of the host.", lambda host: host.memory_total
    ),
    # The agent's memory in use is what is not available, so this is the kernel's own figure.
    Field(
        "node_memory_MemAvailable_bytes",
        "gauge",
        "Memory that programs can have without swapping.",
        lambda host: _difference(host.memory_total, host.memory_used),
    ),
    Field(
        "node_memory_SwapTotal_bytes", "gauge", "Swap of the host.", lambda host: host.swap_total
    ),
    Field(
        "node_memory_SwapFree_bytes",
        "gauge",
        "Swap that is not in use.",
        lambda host: _difference(host.swap_total, host.swap_used),
    ),
    Field(
        "remotegpu_host_cpu_utilization_ratio",
        "gauge",
        "Share of all cores' time that was not idle, 0 to 1.",
        lambda host: None if host.cpu_utilization is None else round(host.cpu_utilization / 100, 6),
    ),
    Field(
        "remotegpu_host_network_receive_bytes_per_second",
        "gauge",
        "Bytes a second received over interfaces that lead out of the host.",
        lambda host: host.network_receive_bytes_per_second,
    ),
    Field(
        "remotegpu_host_network_transmit_bytes_per_second",
        "gauge",
        "Bytes a second sent over interfaces that lead out of the host.",
        lambda host: host.network_transmit_bytes_per_second,
    ),
    Field(
        "remotegpu_host_disk_size_bytes",
        "gauge",
        "Size of all local file systems.",
        lambda host: host.disk_total,
    ),
    Field(
        "remotegpu_host_disk_used_bytes",
        "gauge",
        "Bytes in use on all local file systems.",
        lambda host: host.disk_used,
    ),
    Field(
        "remotegpu_host_uptime_seconds",
        "gauge",
        "Time since the host was booted.",
        lambda host: host.uptime_seconds,
    ),
)

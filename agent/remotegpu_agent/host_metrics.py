"""What this host does."""

import os
import time

import psutil

from remotegpu_agent.disk_usage import DiskUsage
from remotegpu_agent.interfaces import OutwardTraffic
from remotegpu_protocol.metrics import HostMetrics
from remotegpu_protocol.values import plausible


class HostSampler:
    """Rates are those since the sample before, so the first sample has none."""

    def __init__(self, disk_usage: DiskUsage | None = None) -> None:
        self._disk_usage = disk_usage or DiskUsage()
        self._network = NetworkRates()
        self._cpu = _cpu_times()

    def sample(self) -> HostMetrics:
        memory = psutil.virtual_memory()
        swap = psutil.swap_memory()
        load1, load5, load15 = os.getloadavg()
        receive, transmit = self._network.sample()
        disk_used, disk_total = self._disk_usage.latest()
        return HostMetrics(
            cpu_utilization=self._cpu_utilization(),
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            swap_used=swap.used,
            swap_total=swap.total,
            load1=load1,
            load5=load5,
            load15=load15,
            network_receive_bytes_per_second=receive,
            network_transmit_bytes_per_second=transmit,
            disk_used=disk_used,
            disk_total=disk_total,
            uptime_seconds=time.clock_gettime(time.CLOCK_BOOTTIME),
        )

    def _cpu_utilization(self) -> float | None:
        before, self._cpu = self._cpu, _cpu_times()
        busy, total = (now - then for now, then in zip(self._cpu, before, strict=True))
        # The kernel counts in hundredths of a second: between two quick samples nothing may pass.
        return plausible(round(100 * busy / total, 1), 0, 100) if total > 0 else None


class NetworkRates:
    """Bytes a second over the interfaces that lead out of the host."""

    def __init__(self, outward: OutwardTraffic | None = None) -> None:
        self._outward = outward or OutwardTraffic()
        self._before = self._read()

    def sample(self) -> tuple[float | None, float | None]:
        """(received, sent) since the last call; None where a counter started over."""
        before, self._before = self._before, self._read()
        elapsed = self._before[0] - before[0]
        received = sent = 0
        for interface, (now_received, now_sent) in self._before[1].items():
            if interface not in before[1]:
                continue
            then_received, then_sent = before[1][interface]
            if now_received < then_received or now_sent < then_sent:
                return None, None
            received += now_received - then_received
            sent += now_sent - then_sent
        return (received / elapsed, sent / elapsed) if elapsed > 0 else (None, None)

    def _read(self) -> tuple[float, dict[str, tuple[int, int]]]:
        # `nowrap` would hide counters that start over behind a sum of its own.
        counters = psutil.net_io_counters(pernic=True, nowrap=False)
        chosen = self._outward.among(counters)
        return time.monotonic(), {
            interface: (counter.bytes_recv, counter.bytes_sent)
            for interface, counter in counters.items()
            if interface in chosen
        }


def _cpu_times() -> tuple[float, float]:
    """(busy, all) seconds of all cores since the boot."""
    times = psutil.cpu_times()
    # Guests' time is contained in that of the processes that run them.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    idle = times.idle + getattr(times, "iowait", 0.0)
    return total - idle, total

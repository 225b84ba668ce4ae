"""The event of every fan-out run: one sample of a host with eight GPUs, and who asks for it."""

import random
from pathlib import Path
from typing import Final

from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_protocol.codec import encode
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics

GPUS: Final = 8
_GIB: Final = 2**30

#: The contract's document for live viewers.
DOCUMENT: Final = """subscription MachineMetrics($machineIds: [ID!]!) {
  machineMetrics(machineIds: $machineIds) {
    machineId
    sampledAt
    host { cpuUtilization memoryUsed memoryTotal }
    gpus { index uuid utilization memoryUsed memoryTotal temperature power smClock }
  }
}"""


def make_metrics(seed: int = 1, gpus: int = GPUS) -> Metrics:
    """A sample as a busy host sends it; equal seeds give equal ones."""
    made_up = random.Random(seed)
    return Metrics(
        sampled_at=now_ms(),
        host=HostMetrics(
            cpu_utilization=round(made_up.uniform(1, 99), 1),
            memory_used=made_up.randrange(64 * _GIB, 512 * _GIB),
            memory_total=1024 * _GIB,
            swap_used=0,
            swap_total=8 * _GIB,
            load1=round(made_up.uniform(0, 64), 2),
            load5=round(made_up.uniform(0, 64), 2),
            load15=round(made_up.uniform(0, 64), 2),
            network_receive_bytes_per_second=float(made_up.randrange(10**9)),
            network_transmit_bytes_per_second=float(made_up.randrange(10**9)),
            disk_used=900 * _GIB,
            disk_total=4000 * _GIB,
            uptime_seconds=1_234_567.0,
        ),
        gpus=[_gpu(made_up, seed, index) for index in range(gpus)],
    )


def _gpu(made_up: random.Random, seed: int, index: int) -> GpuMetrics:
    return GpuMetrics(
        index=index,
        uuid=gpu_uuid(seed, index),
        utilization=float(made_up.randrange(101)),
        memory_controller_utilization=float(made_up.randrange(101)),
        memory_used=made_up.randrange(80 * _GIB),
        memory_total=80 * _GIB,
        temperature=float(made_up.randrange(30, 90)),
        power=round(made_up.uniform(60, 700), 1),
        power_limit=700.0,
        sm_clock=made_up.randrange(200, 1980),
        memory_clock=2619,
        fan_speed=None,
        ecc_corrected=0,
        ecc_uncorrected=0,
        throttle_reasons=1,
        processes=[],
    )


def gpu_uuid(seed: int, index: int) -> str:
    return f"GPU-{seed:08x}-0000-4000-8000-{index:012x}"


def write_sample(path: Path) -> Path:
    """A packed sample as the gateway publishes it; the load client sets its time."""
    path.write_bytes(Sample(1, now_ms(), encode(make_metrics())).pack())
    return path

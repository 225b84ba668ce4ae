"""Sums over samples, against the samples themselves."""

import random
from collections.abc import Sequence

import pytest

from remotegpu_core.bus.samples import Sample
from remotegpu_core.bus.sums import GpuSums
from remotegpu_protocol.codec import encode
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess, HostMetrics, Metrics


def packed(gpus: list[GpuMetrics], epoch: int = 1) -> bytes:
    said = Metrics(sampled_at=1, host=HostMetrics(load1=1.0), gpus=gpus)
    return Sample(epoch, 1, encode(said)).pack()


def test_they_are_those_of_what_is_told() -> None:
    chance = random.Random(3)
    told: list[GpuMetrics] = []
    sums = GpuSums()
    for _ in range(200):
        gpus = [
            GpuMetrics(
                index=index,
                uuid=f"GPU-{index}",
                utilization=chance.choice([None, 0.0, 37.5, 100]),
                memory_controller_utilization=chance.choice([None, 3.0]),
                memory_used=chance.choice([None, 0, 2**33]),
                memory_total=chance.choice([None, 2**36]),
                temperature=chance.choice([None, 50.0]),
                power=chance.choice([None, 312.5]),
                processes=chance.choice([None, [GpuProcess(1, "python")]]),
            )
            for index in range(chance.randint(0, 4))
        ]
        told += gpus
        sums.add(packed(gpus), 1)

    def total(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) if there else None

    assert sums.utilization == total([gpu.utilization for gpu in told])
    assert sums.reporting == sum(gpu.utilization is not None for gpu in told)
    assert sums.memory_used == total([gpu.memory_used for gpu in told])
    assert sums.memory_total == total([gpu.memory_total for gpu in told])
    assert sums.power == pytest.approx(total([gpu.power for gpu in told]))


@pytest.mark.parametrize(
    "sample",
    [
        None,
        b"",
        bytes(16),
        bytes(16) + b"nonsense",
        packed([GpuMetrics(0, "GPU-0", utilization=1.0)], epoch=1),
    ],
)
def test_what_cannot_be_read_or_is_of_an_older_link_adds_nothing(sample: bytes | None) -> None:
    sums = GpuSums()
    sums.add(sample, 2)
    assert (sums.utilization, sums.memory_used, sums.reporting) == (None, None, 0)

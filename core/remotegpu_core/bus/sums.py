"""Sums over the GPUs of many samples, of which nothing else is read."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from remotegpu_core.bus.samples import STAMP


class _Gpu(Struct, array_like=True, gc=False):
    """The beginning of `remotegpu_protocol.metrics.GpuMetrics`: what follows is skipped."""

    index: Raw
    uuid: Raw
    utilization: float | None = None
    memory_controller_utilization: Raw = Raw()
    memory_used: int | None = None
    memory_total: int | None = None
    temperature: Raw = Raw()
    power: float | None = None


class _Sample(Struct, tag_field="type", tag="metrics", gc=False):
    gpus: list[_Gpu]


_decoder: Final = msgspec.msgpack.Decoder(_Sample)


class GpuSums:
    """`utilization` in percent, memory in bytes, power in watts: each over the GPUs that tell it, and
    None while none does. `reporting` counts those that tell their utilization."""

    __slots__ = ("memory_total", "memory_used", "power", "reporting", "utilization")

    def __init__(self) -> None:
        self.utilization: float | None = None
        self.memory_used: int | None = None
        self.memory_total: int | None = None
        self.power: float | None = None
        self.reporting = 0

    def add(self, packed: bytes | None, epoch: int) -> None:
        """Add a sample as it is kept. What an older connection than `epoch` left, and what cannot be
        read, adds nothing."""
        if packed is None or len(packed) <= STAMP.size or STAMP.unpack_from(packed)[0] < epoch:
            return
        try:
            gpus = _decoder.decode(memoryview(packed)[STAMP.size :]).gpus
        except msgspec.MsgspecError:
            return
        for gpu in gpus:
            if gpu.utilization is not None:
                self.utilization = (self.utilization or 0.0) + gpu.utilization
                self.reporting += 1
            if gpu.memory_used is not None:
                self.memory_used = (self.memory_used or 0) + gpu.memory_used
            if gpu.memory_total is not None:
                self.memory_total = (self.memory_total or 0) + gpu.memory_total
            if gpu.power is not None:
                self.power = (self.power or 0.0) + gpu.power

"""Samples on the bus: the agent's own bytes behind a stamp, so that nobody encodes them again."""

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from remotegpu_protocol.metrics import Metrics

#: Epoch and time of a sample, before the message as it came: two unsigned 64-bit integers.
STAMP: Final = struct.Struct(">QQ")
_decoder: Final = msgspec.msgpack.Decoder(Metrics)


@dataclass(frozen=True)
class Sample:
    """A machine's metrics. `sampled_at` is milliseconds since the Unix epoch on our clock."""

    epoch: int
    sampled_at: int
    message: bytes

    @cached_property
    def metrics(self) -> Metrics:
        return _decoder.decode(self.message)

    def pack(self) -> bytes:
        return STAMP.pack(self.epoch, self.sampled_at) + self.message


def unpack_sample(data: bytes | None) -> Sample | None:
    """The sample in `data`; None for nothing and for what cannot be read."""
    if data is None or len(data) <= STAMP.size:
        return None
    epoch, sampled_at = STAMP.unpack_from(data)
    sample = Sample(epoch, sampled_at, bytes(data[STAMP.size :]))
    try:
        _ = sample.metrics
    except msgspec.MsgspecError:
        return None
    return sample

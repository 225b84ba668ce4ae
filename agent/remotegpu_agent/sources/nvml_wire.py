"""What the agent and its NVML worker say to each other over the worker's pipes.

A frame is its length in four bytes, big-endian, and a msgpack map.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from remotegpu_agent.sources.settings import SettingsReply, Tuning
from remotegpu_protocol.inventory import DriverState, GpuInventory
from remotegpu_protocol.metrics import GpuMetrics
from remotegpu_protocol.values import LongText, Text

LENGTH_BYTES: Final = 4

#: Bytes; 64 GPUs with 128 processes each stay far below it.
MAX_FRAME: Final = 8 * 1024 * 1024


class InventoryRequest(Struct, frozen=True, tag_field="type", tag="inventory"):
    """Read driver and cards. `fresh` also lets the driver look for its cards again."""

    fresh: bool = False


class SampleRequest(Struct, frozen=True, tag_field="type", tag="sample"):
    """Read what the cards do."""


class SickGpu(Struct, frozen=True):
    """A card that answers with errors; without a UUID where not even that can be read."""

    index: int
    reason: LongText
    uuid: str | None = None


class HungGpu(Struct, frozen=True):
    """A card whose driver has not come back from a call; without a UUID where it never told."""

    index: int
    uuid: str | None = None


class XidEvent(Struct, frozen=True):
    """An error that the driver reported of a card, or of one of its GPU instances."""

    uuid: str
    xid: int
    gpu_instance: int | None = None


class Remark(Struct, frozen=True):
    """Something about one field of one card that is worth a line in the log, once."""

    gpu: Text
    field: str
    text: LongText


class InventoryReply(Struct, frozen=True, tag_field="type", tag="inventory_reply"):
    """`gpus` holds sick cards too, as far as they could be read; `sick` those without a UUID."""

    state: DriverState
    message: LongText | None = None
    driver_version: Text | None = None
    cuda_version: Text | None = None
    gpus: list[GpuInventory] = []
    sick: list[SickGpu] = []
    hung: list[HungGpu] = []
    remarks: Annotated[list[Remark], Meta(max_length=10_000)] = []


class SampleReply(Struct, frozen=True, tag_field="type", tag="sample_reply"):
    """`gpus` holds the cards that could be read."""

    gpus: list[GpuMetrics] = []
    sick: list[SickGpu] = []
    hung: list[HungGpu] = []
    xids: list[XidEvent] = []
    remarks: Annotated[list[Remark], Meta(max_length=10_000)] = []


class DriverLost(Struct, frozen=True, tag_field="type", tag="driver_lost"):
    """The driver as a whole stopped working since it was initialised."""

    message: LongText


Request = InventoryRequest | SampleRequest | Tuning
Reply = InventoryReply | SampleReply | SettingsReply | DriverLost

_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    payload = _encoder.encode(message)
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def decode_request(payload: bytes) -> Request:
    return _requests.decode(payload)


def decode_reply(payload: bytes) -> Reply:
    """Raises msgspec.MsgspecError on anything else, values out of the protocol's range too."""
    return _replies.decode(payload)

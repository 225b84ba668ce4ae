"""JSON for responses: one encoder for every transport."""

from typing import Any, Final

import msgspec

_encoder: Final = msgspec.json.Encoder()


def encode_json(value: Any) -> bytes:
    return _encoder.encode(value)

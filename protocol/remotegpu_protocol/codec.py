"""Messages to bytes and back, with every bound checked while decoding."""

from typing import Final, TypeVar

import msgspec

from remotegpu_protocol.errors import InvalidMessage, MessageTooLarge, UnknownMessage
from remotegpu_protocol.grammar import shorten
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES
from remotegpu_protocol.messages import FromAgent, FromServer

Message = TypeVar("Message")

_encoder: Final = msgspec.msgpack.Encoder()
_from_server: Final[msgspec.msgpack.Decoder[FromServer]] = msgspec.msgpack.Decoder(FromServer)
_from_agent: Final[msgspec.msgpack.Decoder[FromAgent]] = msgspec.msgpack.Decoder(FromAgent)


class _Envelope(msgspec.Struct):
    type: str


_envelope: Final = msgspec.msgpack.Decoder(_Envelope)


def encode(message: FromServer | FromAgent) -> bytes:
    """The frame of a message.

    Raises:
        MessageTooLarge: the frame would pass MAX_MESSAGE_BYTES.
    """
    frame = _encoder.encode(message)
    if len(frame) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"A {type(message).__name__} of {len(frame)} bytes does not fit into the "
            f"{MAX_MESSAGE_BYTES} bytes of a message."
        )
    return frame


def decode_from_agent(frame: bytes) -> FromAgent:
    """Read what an agent sent.

    Raises:
        MessageTooLarge, UnknownMessage, InvalidMessage: what their names say.
    """
    return _decode(_from_agent, frame)


def decode_from_server(frame: bytes) -> FromServer:
    """Read what the control plane sent; raises like `decode_from_agent`."""
    return _decode(_from_server, frame)


def _decode(decoder: msgspec.msgpack.Decoder[Message], frame: bytes) -> Message:
    if len(frame) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"Expected at most {MAX_MESSAGE_BYTES} bytes in a message, got {len(frame)}."
        )
    try:
        return decoder.decode(frame)
    except msgspec.ValidationError as error:
        kind = _kind(frame)
        if kind is not None and "Invalid value" in str(error) and "$.type" in str(error):
            raise UnknownMessage(f"This side does not know messages of type {kind!r}.") from None
        named = f"a {kind} message" if kind else "the message"
        raise InvalidMessage(f"Could not read {named}: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"Expected one msgpack map, got {shorten(str(error))}.") from None


def _kind(frame: bytes) -> str | None:
    try:
        return shorten(_envelope.decode(frame).type, 40)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None

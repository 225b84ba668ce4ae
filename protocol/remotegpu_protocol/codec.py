"""Messages to bytes and back, with every bound checked while decoding."""

from typing import Final, TypeVar

import msgspec

from remotegpu_protocol.errors import InvalidMessage, MessageTooLarge, UnknownMessage
from remotegpu_protocol.grammar import clean_text, shorten
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
        InvalidMessage: it holds a text that is not Unicode or an integer beyond 64 bits.
    """
    try:
        frame = _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidMessage(
            f"A {type(message).__name__} cannot be written: {error}. Clean texts with "
            "grammar.clean_text and numbers with values.plausible first."
        ) from None
    if len(frame) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"A {type(message).__name__} of {len(frame)} bytes does not fit into the "
            f"{MAX_MESSAGE_BYTES} bytes of a message."
        )
    return frame


def decode_from_agent(frame: bytes | str) -> FromAgent:
    """Read what an agent sent. A text frame, which a `str` stands for, is never valid.

    Raises:
        MessageTooLarge, UnknownMessage, InvalidMessage: what their names say.
    """
    # Every sample of every agent passes here, nearly all of them by the short way; the other finds
    # out what is wrong.
    if type(frame) is bytes and len(frame) <= MAX_MESSAGE_BYTES:
        try:
            return _from_agent.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return _decode(_from_agent, frame)


def decode_from_server(frame: bytes | str) -> FromServer:
    """Read what the control plane sent; raises like `decode_from_agent`."""
    return _decode(_from_server, frame)


def _decode(decoder: msgspec.msgpack.Decoder[Message], frame: bytes | str) -> Message:
    if isinstance(frame, str):
        raise InvalidMessage("Expected a binary websocket frame, got a text frame.")
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
        named = f"the message of type {kind!r}" if kind else "the message"
        # msgspec repeats a wrong enum value in full, and that may be a quarter of a megabyte.
        reason = clean_text(str(error), 300)
        raise InvalidMessage(f"Could not read {named}: {reason}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = clean_text(str(error), 300)
        raise InvalidMessage(
            f"Expected one msgpack map, and the message cannot be read as one: {reason}."
        ) from None


def _kind(frame: bytes) -> str | None:
    try:
        return shorten(_envelope.decode(frame).type, 40)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None

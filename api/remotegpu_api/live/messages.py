"""Messages of graphql-transport-ws, read strictly and written without an encoder where it counts.

What is written is UTF-8, and so it stays until it is sent.
"""

import functools
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from remotegpu_api.encoding import encode_json

SUBPROTOCOL: Final = "graphql-transport-ws"

#: Bytes of one message from a client (`websocket_protocol` closes on more, with 1009), and
#: characters of the id that it gives an operation.
MAX_MESSAGE: Final = 64 * 1024
MAX_ID: Final = 128


class CloseCode:
    """What the protocol closes sockets with, and two of ours (4403 and 4429 in other roles)."""

    BAD_REQUEST: Final = 4400
    UNAUTHORIZED: Final = 4401
    FORBIDDEN: Final = 4403
    SUBPROTOCOL_NOT_ACCEPTABLE: Final = 4406
    INIT_TIMEOUT: Final = 4408
    SUBSCRIBER_EXISTS: Final = 4409
    TOO_MANY_REQUESTS: Final = 4429
    GOING_AWAY: Final = 1001
    TRY_AGAIN_LATER: Final = 1013


class ProtocolViolation(Exception):
    """The client broke the protocol; the socket closes with `code` and the message as reason."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ConnectionInit:
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ping:
    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Subscribe:
    id: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Complete:
    id: str


ClientMessage = ConnectionInit | Ping | Pong | Subscribe | Complete


def read_message(text: str | None) -> ClientMessage:
    """The message in a frame; None stands for a binary frame.

    Raises:
        ProtocolViolation: no JSON object, an unknown type, or a field of the wrong type.
    """
    if text is None:
        raise _bad("Messages are text frames.")
    try:
        message = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise _bad("A message is valid JSON.") from None
    if not isinstance(message, dict):
        raise _bad("A message is a JSON object.")
    payload = message.get("payload")
    match message.get("type"):
        case "connection_init":
            return ConnectionInit(_object(payload, "payload") or {})
        case "ping":
            return Ping(_object(payload, "payload"))
        case "pong":
            _object(payload, "payload")
            return Pong()
        case "subscribe":
            subscribed = _object(payload, "payload")
            if subscribed is None:
                raise _bad("subscribe has a payload with a query.")
            return Subscribe(_id(message), subscribed)
        case "complete":
            return Complete(_id(message))
        case _:
            raise _bad("The message's type is none that clients send.")


def _object(value: object, name: str) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value
    raise _bad(f"{name} is an object.")


def _id(message: dict[str, Any]) -> str:
    value = message.get("id")
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
        raise _bad(f"id is a string of 1 to {MAX_ID} characters.")
    return value


def _bad(message: str) -> ProtocolViolation:
    return ProtocolViolation(CloseCode.BAD_REQUEST, message)


def connection_ack(ignored: list[str]) -> bytes:
    """`ignored` says what of connection_init was not understood."""
    if not ignored:
        return b'{"type":"connection_ack"}'
    return encode_json({"type": "connection_ack", "payload": {"ignored": ignored}})


def pong(payload: dict[str, Any] | None) -> bytes:
    if payload is None:
        return b'{"type":"pong"}'
    return encode_json({"type": "pong", "payload": payload})


def next_prefix(operation_id: str) -> bytes:
    """What stands before the payload in an operation's next messages."""
    return b'{"id":%b,"type":"next","payload":' % encode_json(operation_id)


def next_message(prefix: bytes, payload: bytes, dropped: int = 0) -> bytes:
    """A next message from ready JSON; `payload` is an object without `extensions` when dropped."""
    if dropped:
        return b'%b%b,"extensions":{"dropped":%d}}}' % (prefix, payload[:-1], dropped)
    return _joined(prefix, payload)


# Equal viewers come one after the other, and most clients count their operations from the same
# number: the next one mostly gets what the one before got.
@functools.lru_cache(maxsize=1)
def _joined(prefix: bytes, payload: bytes) -> bytes:
    return b"".join((prefix, payload, b"}"))


def error_message(operation_id: str, errors: list[dict[str, Any]]) -> bytes:
    return encode_json({"id": operation_id, "type": "error", "payload": errors})


def complete_message(operation_id: str) -> bytes:
    return encode_json({"id": operation_id, "type": "complete"})

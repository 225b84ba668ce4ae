"""Binary messages taken the moment that they are read, without the application's queue and task.

An ASGI scope extension, offered by `websocket_protocol.WebsocketProtocol`. By the usual way each
message is parsed by generators into a frame, an event and a dictionary, stops the reading, wakes a
task, and starts the reading again: for a small message of a quiet connection most of what it costs.
"""

from collections.abc import Callable, Sequence
from types import GeneratorType
from typing import Any, Final, cast

from starlette.types import Scope
from websockets.protocol import Protocol
from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:
    # No wheel for this platform: the library does the same.
    from websockets.utils import apply_mask

#: The extension's name in `scope["extensions"]`.
EXTENSION: Final = "remotegpu.taking"

#: Is given a message and answers what to send back at once; None: the message takes the usual way,
#: and reading pauses until it went. It is not asked while an earlier message is on that way, while
#: answers could not be sent, or once the websocket closes.
Taker = Callable[[bytes], Sequence[bytes] | None]


def take_by(scope: Scope, taker: Taker) -> None:
    """Have `taker` asked first; nothing where the server does not offer it."""
    set_taker = scope.get("extensions", {}).get(EXTENSION)
    if set_taker is not None:
        cast("Callable[[Taker], None]", set_taker)(taker)


#: A final binary frame without reserved bits, and the bit that says that the payload is masked.
_BINARY: Final = 0x82
_MASKED: Final = 0x80
_TWO_BYTES: Final = 126
_BETWEEN_FRAMES: Final = StreamReader.at_eof.__code__


def whole_message(data: bytes, start: int) -> tuple[bytes, int] | None:
    """The message at `start`, where a frame begins, and where the next begins.

    None for any but one of up to 64 KiB that is there to its last byte, in a single frame, as a
    client has to send it.
    """
    if len(data) < start + 2 or data[start] != _BINARY:
        return None
    length = data[start + 1] - _MASKED
    mask = start + 2
    if length == _TWO_BYTES:
        mask += 2
        length = int.from_bytes(data[start + 2 : mask])
    elif not 0 <= length < _TWO_BYTES:
        return None
    payload = mask + 4
    end = payload + length
    if len(data) < end:
        return None
    return apply_mask(data[payload:end], data[mask:payload]), end


def is_between_frames(connection: Protocol) -> bool:
    """Whether all that the connection was given was whole frames of whole messages."""
    # Where the parser waits, in the words of the library: for a frame's first byte.
    waiting = cast("GeneratorType[Any, Any, Any]", connection.parser)
    while waiting.gi_yieldfrom is not None:
        waiting = cast("GeneratorType[Any, Any, Any]", waiting.gi_yieldfrom)
    return waiting.gi_code is _BETWEEN_FRAMES and connection.current_size is None

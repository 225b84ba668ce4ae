"""The frame path: whole text frames, made here, straight to a websocket's transport.

An ASGI scope extension, offered by `websocket_protocol.FrameProtocol`. It skips the server's
coroutine, the text's way through str, and the library's frame objects, which together cost as much
as the system call that sends a kilobyte.
"""

import asyncio
import functools
import struct
from typing import Final, cast

from starlette.types import Scope
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN

#: The extension's name in `scope["extensions"]`.
EXTENSION: Final = "remotegpu.frames"

#: Seconds until another look where no event tells that frames may go on.
_RETRY: Final = 0.05

#: FIN and the opcodes of text and of binary (RFC 6455, 5.2).
WHOLE_TEXT: Final = 0x81
WHOLE_BINARY: Final = 0x82
_SHORT = struct.Struct("!BB").pack
_MEDIUM = struct.Struct("!BBH").pack
_LONG = struct.Struct("!BBQ").pack


def frame(kind: int, message: bytes) -> bytes:
    """A server's frame that is a whole message, WHOLE_TEXT or WHOLE_BINARY."""
    length = len(message)
    if length < 126:
        return _SHORT(kind, length) + message
    if length < 65536:
        return _MEDIUM(kind, 126, length) + message
    return _LONG(kind, 127, length) + message


# The same message to many sockets, one after the other.
@functools.lru_cache(maxsize=1)
def _text_frame(message: bytes) -> bytes:
    return frame(WHOLE_TEXT, message)


class FrameWriter:
    """Of one websocket; a `live.sender.Sender`.

    Nothing is ever held back here: what is not taken stays with the caller.
    """

    __slots__ = ("_protocol",)

    def __init__(self, protocol: WebSocketsSansIOProtocol) -> None:
        self._protocol = protocol

    @property
    def is_busy(self) -> bool:
        """Nothing is under way between two calls."""
        return False

    def offer(self, message: bytes) -> bool:
        """Send UTF-8 as one text frame; False, and nothing sent, where that may not be now.

        It may not before the handshake or from the first close frame of either side on, within a
        fragmented message, or while the transport holds as much as it may.
        """
        protocol = self._protocol
        connection = protocol.conn
        if (
            connection.state is not OPEN
            or connection.expect_continuation_frame
            or not protocol.writable.is_set()
            or protocol.transport.is_closing()
        ):
            return False
        # One buffer: as fast as two for `writelines` where measured, and one record under TLS.
        protocol.transport.write(_text_frame(message))
        return True

    async def finish(self) -> None:
        """Wait until a frame would be taken.

        Raises:
            ClientDisconnected: none will be any more.
        """
        protocol = self._protocol
        while True:
            await protocol.writable.wait()
            connection = protocol.conn
            if connection.state is not OPEN or protocol.transport.is_closing():
                raise ClientDisconnected
            if not connection.expect_continuation_frame:
                return
            await asyncio.sleep(_RETRY)


def frame_writer(scope: Scope) -> FrameWriter | None:
    """The websocket's frame path, None where the server offers none."""
    return cast("FrameWriter | None", scope.get("extensions", {}).get(EXTENSION))

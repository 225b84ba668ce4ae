"""Waiting until a websocket's connection is gone, which may be long after it was closed.

An ASGI scope extension, offered by `websocket_protocol.WebsocketProtocol`. A close frame waits
behind what a slow reader has not taken; who counts connections counts this one until it ends.
"""

from collections.abc import Awaitable, Callable
from typing import Final, cast

from starlette.types import Scope

#: The extension's name in `scope["extensions"]`.
EXTENSION: Final = "remotegpu.departure"


async def departed(scope: Scope) -> None:
    """Return when the connection of a closed websocket is gone; at once where no server says."""
    wait = scope.get("extensions", {}).get(EXTENSION)
    if wait is not None:
        await cast("Callable[[], Awaitable[None]]", wait)()

"""Binary messages taken the moment that they are read, without the application's queue and task.

An ASGI scope extension, offered by `websocket_protocol.WebsocketProtocol`. By the usual way each
message stops the reading, wakes a task, and starts the reading again, which for a small message of
a quiet connection is most of what it costs.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

from starlette.types import Scope

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

"""Sending a frame without a task of its own, where the transport takes it at once.

A server's `send` only waits while the transport is full. So its coroutine is run by hand to its
first pause: nearly always it has ended there, and what a thousand viewers cost is a thousand calls
instead of a thousand wake-ups. One that does pause is gone on with in the socket's writer.
"""

import contextlib
import types
from collections.abc import Coroutine, Generator
from typing import Any, cast

from starlette.types import Send


class Sender:
    """Of one socket. While it `is_busy`, `finish` it before the next `start`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._paused: tuple[Coroutine[Any, Any, None], Any] | None = None

    @property
    def is_busy(self) -> bool:
        return self._paused is not None

    def start(self, text: str) -> None:
        """Send as far as it goes without waiting; raises what the server raises."""
        sending = cast(
            "Coroutine[Any, Any, None]", self._send({"type": "websocket.send", "text": text})
        )
        with contextlib.suppress(StopIteration):
            self._paused = (sending, sending.send(None))

    async def finish(self) -> None:
        """Wait until what was started is sent."""
        if self._paused is None:
            return
        sending, awaited = self._paused
        try:
            await _resumed(sending, awaited)
        finally:
            self._paused = None


@types.coroutine
def _resumed(sending: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that paused at `awaited`, as `await` would have from its start."""
    try:
        while True:
            try:
                value = yield awaited
            except GeneratorExit:
                sending.close()
                raise
            except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the coroutine's
                awaited = sending.throw(error)
            else:
                awaited = sending.send(value)
    except StopIteration:
        return

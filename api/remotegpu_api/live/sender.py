"""How a socket's messages get to its viewer: by frames of its own where the server has them, else
by the server's `send`."""

import contextlib
import types
from collections.abc import Coroutine, Generator
from typing import Any, Protocol, cast

from starlette.types import Scope, Send

from remotegpu_api.frames import frame_writer


class Sender(Protocol):
    """Of one socket. Messages are JSON in UTF-8."""

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that `finish` must see to its end."""
        ...

    def offer(self, message: bytes) -> bool:
        """Send without waiting; False where that cannot be now. Raises what the server raises."""
        ...

    async def finish(self) -> None:
        """Wait until the next message can be offered. Raises what the server raises."""
        ...


class AsgiSender:
    """Sends without a task of its own, where the transport takes it at once.

    A server's `send` only waits while the transport is full. So its coroutine is run by hand to
    its first pause: nearly always it has ended there, and what a thousand viewers cost is a
    thousand calls instead of a thousand wake-ups. One that does pause waits for `finish`.
    """

    __slots__ = ("_paused", "_send")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._paused: tuple[Coroutine[Any, Any, None], Any] | None = None

    @property
    def is_busy(self) -> bool:
        return self._paused is not None

    def offer(self, message: bytes) -> bool:
        if self._paused is not None:
            return False
        event = {"type": "websocket.send", "text": message.decode()}
        sending = cast("Coroutine[Any, Any, None]", self._send(event))
        with contextlib.suppress(StopIteration):
            self._paused = (sending, sending.send(None))
        return True

    async def finish(self) -> None:
        if self._paused is None:
            return
        sending, awaited = self._paused
        try:
            await _resumed(sending, awaited)
        finally:
            self._paused = None


def sender_for(scope: Scope, send: Send) -> Sender:
    """The frame path where the server offers it, plain ASGI otherwise."""
    return frame_writer(scope) or AsgiSender(send)


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

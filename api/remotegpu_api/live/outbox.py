"""What waits to be sent on one socket: bounded, and newest-wins for live values."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from remotegpu_api.live.messages import next_message

#: Messages that must all arrive may wait in this number before the socket counts as stuck.
MAX_WAITING = 256


class Stuck(Exception):
    """The reader does not keep up with messages that may not be dropped."""


@dataclass(slots=True)
class _Live:
    prefix: bytes
    payload: bytes
    dropped: int = 0


class Outbox:
    """Messages in order. A live value that still waits is replaced by the next of its slot, and
    the reader is told how many it did not see."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, bytes | _Live] = OrderedDict()
        self._sequence = 0
        self._fixed = 0
        # Made when it is short: most readers never let anything wait.
        self._room: asyncio.Event | None = None

    def put(self, message: bytes) -> None:
        """Queue a message that must arrive.

        Raises:
            Stuck: too many wait already.
        """
        if self._fixed >= MAX_WAITING:
            raise Stuck
        self._sequence += 1
        self._fixed += 1
        self._waiting[self._sequence] = message
        if self._fixed >= MAX_WAITING // 2 and self._room is None:
            self._room = asyncio.Event()

    def put_live(self, slot: Hashable, prefix: bytes, payload: bytes) -> None:
        """Queue the newest value of `slot`, in the place of one that waits."""
        waiting = self._waiting.get(slot)
        if isinstance(waiting, _Live):
            waiting.payload = payload
            waiting.dropped += 1
        else:
            self._waiting[slot] = _Live(prefix, payload)

    def forget(self, slot: Hashable) -> None:
        """A live value that nobody wants any more."""
        self._waiting.pop(slot, None)

    async def room(self) -> None:
        """Wait until there is room for more that must arrive."""
        if self._room is not None:
            await self._room.wait()

    def take(self) -> bytes | None:
        """The next message, None when nothing waits."""
        if not self._waiting:
            return None
        _, item = self._waiting.popitem(last=False)
        if isinstance(item, _Live):
            return next_message(item.prefix, item.payload, item.dropped)
        self._fixed -= 1
        if self._fixed < MAX_WAITING // 2 and self._room is not None:
            self._room.set()
            self._room = None
        return item

    def __len__(self) -> int:
        return len(self._waiting)

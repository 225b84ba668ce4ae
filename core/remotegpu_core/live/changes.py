"""A log of changes as it grows, read once per process and shown to all who follow."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Generic

from remotegpu_core.services.logs import BATCH, ChangeLog, Entry
from remotegpu_core.versions import VersionWatch

#: Changes kept in memory; a follower that fell further behind reads the log itself.
_RECENT = 1000
#: Seconds for which an answer about what is visible holds.
_FRESH = 1.0

#: Of these machines or allocations, those that the follower may see.
Visible = Callable[[Collection[uuid.UUID]], Awaitable[Collection[uuid.UUID]]]


class ChangeFeed(Generic[Entry]):
    """Newest changes in memory, and a bell that rings when there are more."""

    def __init__(self, log: ChangeLog[Entry], versions: VersionWatch) -> None:
        self._log = log
        self._read_up_to: int | None = None
        self._recent: deque[Entry] = deque(maxlen=_RECENT)
        self._bell = asyncio.Event()
        versions.on_change(log.topic, self._advance)

    async def follow(self, after: int) -> AsyncIterator[Entry]:
        """Every change after the sequence `after`, in order, without end and without a gap.

        Raises:
            CursorExpired: the follower fell so far behind that what comes next is not kept.
        """
        async for batch in self._batches(after):
            for change in batch:
                yield change

    async def follow_visible(self, after: int, visible: Visible) -> AsyncIterator[Entry]:
        """Like `follow`, without changes of what is not visible: asked for many changes at once,
        and again where their reader takes longer than `_FRESH`."""
        async for batch in self._batches(after):
            ids = {self._log.object_of(change) for change in batch}
            seen, looked_at = await visible(ids), time.monotonic()
            for change in batch:
                if time.monotonic() - looked_at > _FRESH:
                    seen, looked_at = await visible(ids), time.monotonic()
                if self._log.object_of(change) in seen:
                    yield change

    async def _batches(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        position = after
        while True:
            # Taken before the look: what comes in after it rings this very bell.
            bell = self._bell
            found = await self._after(position)
            for change in found:
                if change.sequence != position + 1:
                    raise self._log.expired("You fell behind further than changes are kept")
                position = change.sequence
            if found:
                yield found
            if len(found) < BATCH:
                await bell.wait()

    async def _after(self, position: int) -> Sequence[Entry]:
        recent = self._recent
        if recent and recent[0].sequence <= position + 1:
            return [change for change in recent if change.sequence > position]
        return await self._log.after(position)

    async def _advance(self) -> None:
        position = self._read_up_to
        if position is None:
            position = await self._log.current() - 1
        while True:
            batch = await self._log.after(position)
            for change in batch:
                self._recent.append(change)
                self._read_up_to = position = change.sequence
            if len(batch) < BATCH:
                break
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

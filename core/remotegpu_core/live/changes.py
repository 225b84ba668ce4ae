"""The machines' change log as it grows, read once per process and handed to all who follow."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from remotegpu_core.models import MachineChange
from remotegpu_core.services.changes import BATCH, changes_after, current_sequence
from remotegpu_core.versions import Topic, VersionWatch

#: Changes that may wait for a slow follower before it has to read the log itself.
_BACKLOG = 1000


class ChangeFeed:
    """Fans new changes out; a follower that fell behind catches up from the log, missing none."""

    def __init__(self, versions: VersionWatch) -> None:
        self._read_up_to: int | None = None
        self._queues: set[asyncio.Queue[MachineChange]] = set()
        versions.on_change(Topic.MACHINE_CHANGES, self._advance)

    async def follow(self, after: int) -> AsyncIterator[MachineChange]:
        """Every change after the sequence `after`, in order, without end."""
        queue: asyncio.Queue[MachineChange] = asyncio.Queue(_BACKLOG)
        self._queues.add(queue)
        position = after
        try:
            while True:
                # The log first: what came before the queue, or overflowed it.
                while batch := await changes_after(position):
                    for change in batch:
                        position = change.sequence
                        yield change
                while True:
                    change = await queue.get()
                    if change.sequence <= position:
                        continue
                    if change.sequence != position + 1:
                        break
                    position = change.sequence
                    yield change
        finally:
            self._queues.discard(queue)

    async def _advance(self) -> None:
        if self._read_up_to is None:
            self._read_up_to = await current_sequence() - 1
        while True:
            batch: Sequence[MachineChange] = await changes_after(self._read_up_to)
            for change in batch:
                self._read_up_to = change.sequence
                for queue in self._queues:
                    if not queue.full():
                        queue.put_nowait(change)
            if len(batch) < BATCH:
                return

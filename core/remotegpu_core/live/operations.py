"""Operations as they change, read once per process and shown to all who follow one."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator

from remotegpu_core.models import Operation
from remotegpu_core.services.operations import changed_since
from remotegpu_core.states import FINAL, OperationState
from remotegpu_core.versions import Topic, VersionWatch, read_versions


class OperationFeed:
    """Who follows which operation here. One query a change, however many follow."""

    def __init__(self, versions: VersionWatch) -> None:
        self._bells: defaultdict[uuid.UUID, set[asyncio.Event]] = defaultdict(set)
        self._newest: dict[uuid.UUID, Operation] = {}
        self._read_up_to: int | None = None
        versions.on_change(Topic.OPERATIONS, self._advance)

    async def follow(self, operation_id: uuid.UUID) -> AsyncIterator[Operation]:
        """The operation as it is, then as it changes, until it is over or gone.

        A reader that is slower than the changes gets the newest state and never a queue of them.
        """
        bell = asyncio.Event()
        self._bells[operation_id].add(bell)
        try:
            row = await Operation.get_or_none(id=operation_id)
            revision = -1
            while row is not None:
                if row.revision > revision:
                    revision = row.revision
                    yield row
                    # INDETERMINATE may yet be told by a host that comes back, but nobody waits
                    # for that: it is an end too.
                    if OperationState(row.state) in FINAL:
                        return
                await bell.wait()
                bell.clear()
                row = self._newest.get(operation_id)
        finally:
            bells = self._bells[operation_id]
            bells.discard(bell)
            if not bells:
                del self._bells[operation_id]
                self._newest.pop(operation_id, None)

    async def _advance(self) -> None:
        position = self._read_up_to
        if position is None:
            # What changed before the first look is read by whoever follows it.
            position = (await read_versions()).get(Topic.OPERATIONS, 1) - 1
        while changed := await changed_since(position):
            await self._tell([id_ for id_, _ in changed if id_ in self._bells])
            position = max(change for _, change in changed)
        self._read_up_to = position

    async def _tell(self, followed: list[uuid.UUID]) -> None:
        if not followed:
            return
        for row in await Operation.filter(id__in=followed):
            known = self._newest.get(row.id)
            if known is None or known.revision < row.revision:
                self._newest[row.id] = row
            for bell in self._bells.get(row.id, ()):
                bell.set()

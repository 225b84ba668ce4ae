"""Which object each card of a machine is, for samples, which name cards by their UUID."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from remotegpu_core.models import Gpu

#: Machines that are remembered, those asked for last.
MAX_MACHINES: Final = 10_000
#: Seconds until a card that was not known is looked for again: the inventory may have it by then.
LOOK_AGAIN: Final = 5.0


@dataclass(slots=True)
class _Known:
    looked_at: float
    ids: Mapping[str, UUID] = field(default_factory=dict)


class GpuIds:
    """Of one process. A card of a machine keeps its id for good, so nothing here grows old."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._machines: OrderedDict[UUID, _Known] = OrderedDict()

    async def find(
        self,
        machine_id: UUID,
        card: str,
        fetch: Callable[[UUID], Awaitable[Iterable[Gpu]]],
    ) -> UUID | None:
        """The id of the card with that UUID; `fetch` gives a machine's rows when they are needed."""
        known = self._machines.get(machine_id)
        if known is not None:
            self._machines.move_to_end(machine_id)
            found = known.ids.get(card)
            if found is not None or self._clock() - known.looked_at < LOOK_AGAIN:
                return found
        rows = await fetch(machine_id)
        fresh = _Known(self._clock(), {row.uuid: row.id for row in rows})
        self._machines[machine_id] = fresh
        while len(self._machines) > MAX_MACHINES:
            self._machines.popitem(last=False)
        return fresh.ids.get(card)

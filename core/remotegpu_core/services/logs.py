"""Logs of what happened, in commit order, that subscriptions resume from."""

import uuid
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, cast

from remotegpu_core.errors import CursorExpired, InvalidInput
from remotegpu_core.models import AllocationEvent, MachineChange, Version
from remotegpu_core.versions import Topic

#: Entries kept for those who come back with a cursor.
KEPT: Final = 10_000
#: Entries read at once.
BATCH: Final = 500

Entry = TypeVar("Entry", bound=MachineChange | AllocationEvent)


@dataclass(frozen=True)
class ChangeLog(Generic[Entry]):
    """One log: every count of its topic is the sequence of one entry.

    `subscription` is the field of the graph that gives its cursors, `objects` what it is about.
    """

    model: type[Entry]
    topic: Topic
    subscription: str
    objects: str

    def object_of(self, entry: Entry) -> uuid.UUID:
        """The machine or allocation that an entry is about."""
        return entry.machine_id if isinstance(entry, MachineChange) else entry.allocation_id

    async def current(self) -> int:
        """The cursor of now: everything up to it is visible to a query made after this call."""
        version = await Version.get(name=self.topic)
        return int(version.value)

    async def after(self, sequence: int) -> list[Entry]:
        """Up to BATCH entries after `sequence`, oldest first."""
        later = self.model.filter(sequence__gt=sequence).order_by("sequence")
        return cast("list[Entry]", await later.limit(BATCH))

    async def parse_cursor(self, cursor: str) -> int:
        """The sequence that a cursor stands for.

        Raises:
            InvalidInput: it is none of ours.
            CursorExpired: entries after it are not kept any more.
        """
        if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
            raise InvalidInput(
                f"after takes a cursor that {self.subscription} gave.", field="after"
            )
        sequence = int(cursor)
        newest = await self.current()
        if sequence > newest:
            raise InvalidInput("after is a cursor of another system.", field="after")
        oldest = await self.model.all().order_by("sequence").first()
        first_kept = oldest.sequence if oldest is not None else newest + 1
        if sequence + 1 < first_kept:
            raise self.expired("Changes since this cursor are not kept any more")
        return sequence

    def expired(self, why: str) -> CursorExpired:
        return CursorExpired(
            f"{why}: query the {self.objects} again and subscribe without after.", field="after"
        )

    async def prune(self) -> None:
        newest = await self.current()
        await self.model.filter(sequence__lte=newest - KEPT).delete()

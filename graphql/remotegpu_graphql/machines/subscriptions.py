import uuid
from collections.abc import AsyncIterator, Collection
from typing import Annotated

import strawberry

from remotegpu_core.services.access import visible_ids
from remotegpu_core.services.changes import MACHINE_LOG
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.machines.types import MachineChange


@strawberry.type
class MachinesSubscription:
    @subscription(
        "What happens to the machines that you may see. Without `after` it begins with READY and "
        "a cursor: query after it, and nothing is missed. With `after` it begins with everything "
        "since then, or with CURSOR_EXPIRED when that is not kept any more."
    )
    async def machine_changed(
        self,
        info: Info,
        after: Annotated[
            str | None,
            strawberry.argument(
                description="A cursor that an earlier event had.", metadata=characters(0, 64)
            ),
        ] = None,
    ) -> AsyncIterator[MachineChange]:
        context = info.context
        if after is None:
            sequence = await MACHINE_LOG.current()
            yield MachineChange.ready(sequence)
        else:
            sequence = await MACHINE_LOG.parse_cursor(after)

        async def visible(ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
            return await visible_ids(context.actor, ids)

        async for change in context.plane.changes.follow_visible(sequence, visible):
            yield MachineChange.of(change)

import uuid
from collections.abc import AsyncIterator, Collection
from typing import Annotated

import strawberry

from remotegpu_core.services.allocations.log import ALLOCATION_LOG
from remotegpu_core.services.allocations.reading import allocations_by_id
from remotegpu_graphql.allocations.types import AllocationChange
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import subscription


@strawberry.type
class AllocationsSubscription:
    @subscription(
        "What happens to the allocations that you may see, warnings of their ends too. Without "
        "`after` it begins with READY and a cursor: query after it, and nothing is missed. With "
        "`after` it begins with everything since then, or with CURSOR_EXPIRED when that is not "
        "kept any more."
    )
    async def allocation_changed(
        self,
        info: Info,
        after: Annotated[
            str | None,
            strawberry.argument(
                description="A cursor that an earlier event had.", metadata=characters(0, 64)
            ),
        ] = None,
    ) -> AsyncIterator[AllocationChange]:
        context = info.context
        if after is None:
            sequence = await ALLOCATION_LOG.current()
            yield AllocationChange.ready(sequence)
        else:
            sequence = await ALLOCATION_LOG.parse_cursor(after)

        async def visible(ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
            return await allocations_by_id(context.actor, list(ids))

        async for event in context.plane.allocations.follow_visible(sequence, visible):
            yield AllocationChange.of(event)

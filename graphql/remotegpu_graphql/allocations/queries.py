from typing import Annotated

import strawberry

from remotegpu_core.services.allocations.allocate import plan
from remotegpu_core.services.allocations.reading import (
    AllocationFilter,
    AllocationOrderField,
    list_allocations,
)
from remotegpu_graphql.allocations.inputs import (
    AllocateInput,
    AllocationFilterInput,
    AllocationOrder,
)
from remotegpu_graphql.allocations.plan import AllocationPlan
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)


@strawberry.type
class AllocationsQuery:
    @query("Allocations: all for admins, for others their own and those in their workspaces.")
    async def allocations(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            AllocationFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            AllocationOrder | None, strawberry.argument(description="Newest first when left out.")
        ] = None,
    ) -> Connection[Allocation] | None:
        info.context.note_not_mine("allocations", filter.mine if filter else None)
        page = await list_allocations(
            info.context.actor,
            page_request(first, after, last, before),
            filter.to_filter() if filter else AllocationFilter(),
            order_field=order_by.field if order_by else AllocationOrderField.CREATED_AT,
            descending=order_by is None or order_by.direction is OrderDirection.DESC,
        )
        return connection(page, Allocation.of)

    @query("An allocation by its id; null when there is none or not for you.")
    async def allocation(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Which.")]
    ) -> Allocation | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Allocation":
            return None
        row = await info.context.loaders.allocation.load(parts[1])
        return None if row is None else Allocation.of(row)

    @query(
        "What allocate would do with this input, without doing it. Its idempotencyKey and wait "
        "change nothing."
    )
    async def plan_allocation(
        self,
        info: Info,
        input: Annotated[AllocateInput, strawberry.argument(description="What is wanted.")],
    ) -> AllocationPlan | None:
        context = info.context
        found = await plan(context.actor, context.plane.settings, input.to_request())
        return AllocationPlan.of(found)

from typing import Annotated

import strawberry

from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.operations.types import Operation


@strawberry.type
class OperationsQuery:
    @query("An operation by its id; null when there is none or not for you.")
    async def operation(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Which.")]
    ) -> Operation | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Operation":
            return None
        row = await info.context.loaders.operation.load(parts[1])
        return None if row is None else Operation.of(row)

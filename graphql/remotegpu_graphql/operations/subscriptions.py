import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import strawberry

from remotegpu_core.services.operations import visible_operation
from remotegpu_graphql.context import Context, Info
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.operations.types import Operation

#: Seconds after which the viewer's right to see it is looked at anew, whatever happens.
_LOOK = 1.0


@strawberry.type
class OperationsSubscription:
    @subscription(
        "An operation: as it is now, then whenever it changes, until it is final; then the stream "
        "completes. Whoever is slow gets the newest state."
    )
    async def operation_changed(
        self,
        info: Info,
        operation_id: Annotated[strawberry.ID, strawberry.argument(description="Which.")],
    ) -> AsyncIterator[Operation]:
        row_id = decode_id(operation_id, "Operation", field="operationId")
        await _check(info.context, row_id)
        async for row in _while_seen(info.context, row_id):
            yield Operation.of(row)


async def _check(context: Context, row_id: uuid.UUID) -> None:
    await visible_operation(context.actor, row_id, field="operationId")


async def _while_seen(context: Context, row_id: uuid.UUID) -> AsyncIterator[Any]:
    """Changes of the operation. Raises NotFound soon after the viewer lost sight of it."""
    changes = context.plane.operations.follow(row_id)
    coming: asyncio.Future[Any] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(changes, None))
            await asyncio.wait({coming}, timeout=_LOOK)
            await _check(context, row_id)
            if not coming.done():
                continue
            row, coming = coming.result(), None
            if row is None:
                return
            yield row
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await changes.aclose()  # type: ignore[attr-defined]  # an async generator

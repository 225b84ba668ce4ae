"""Any object by its id."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import strawberry
from strawberry.dataloader import DataLoader

from remotegpu_graphql.allocations.receipt import AllocationReceipt
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.audit.types import AuditEvent
from remotegpu_graphql.bounds import items
from remotegpu_graphql.context import Context, Info
from remotegpu_graphql.datasets.types import Dataset, Mount
from remotegpu_graphql.enrollments.types import Enrollment
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.loaders import Loaders
from remotegpu_graphql.machines.types import Gpu, Machine
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.relay import Node
from remotegpu_graphql.ssh_keys.types import SshKey
from remotegpu_graphql.tokens.types import ApiToken
from remotegpu_graphql.users.types import User
from remotegpu_graphql.workspaces.types import Workspace

#: Ids that one `nodes` takes.
MAX_NODES = 100


#: How the rows of each type are found, and what is made of them.
NODE_KINDS: Mapping[
    str, tuple[Callable[[Loaders], DataLoader[uuid.UUID, Any]], Callable[[Any], Node]]
] = {
    "Machine": (lambda loaders: loaders.machine, Machine.of),
    "Gpu": (lambda loaders: loaders.gpu, Gpu.of),
    "Allocation": (lambda loaders: loaders.allocation, Allocation.of),
    "AllocationReceipt": (lambda loaders: loaders.receipt_by_id, AllocationReceipt.of),
    "Operation": (lambda loaders: loaders.operation, Operation.of),
    "User": (lambda loaders: loaders.user, User.of),
    "ApiToken": (lambda loaders: loaders.api_token, ApiToken.of),
    "SshKey": (lambda loaders: loaders.ssh_key, SshKey.of),
    "Dataset": (lambda loaders: loaders.dataset, Dataset.of),
    "Mount": (lambda loaders: loaders.mount, Mount.of),
    "Enrollment": (lambda loaders: loaders.enrollment, Enrollment.of),
    "Workspace": (lambda loaders: loaders.workspace, Workspace.of),
    "AuditEvent": (lambda loaders: loaders.audit_event, AuditEvent.of),
}


async def load_node(context: Context, value: str) -> Node | None:
    """The object behind an id, None when there is none or not for this viewer."""
    parts = split_id(value)
    if parts is None or parts[0] not in NODE_KINDS:
        return None
    loader, convert = NODE_KINDS[parts[0]]
    row = await loader(context.loaders).load(parts[1])
    return None if row is None else convert(row)


@strawberry.type
class NodesQuery:
    @query("An object by its id; null when there is none or not for you.")
    async def node(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Of any type.")],
    ) -> Node | None:
        return await load_node(info.context, id)

    @query("Objects by their ids, in the same order; null in the place of those not there.")
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID],
            strawberry.argument(description="Of any types.", metadata=items(0, MAX_NODES)),
        ],
    ) -> list[Node | None] | None:
        return await asyncio.gather(*(load_node(info.context, value) for value in ids))

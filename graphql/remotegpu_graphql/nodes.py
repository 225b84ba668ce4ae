"""Any object by its id."""

import asyncio
from typing import Annotated

import strawberry

from remotegpu_core.errors import InvalidInput
from remotegpu_graphql.audit.types import AuditEvent
from remotegpu_graphql.context import Context, Info
from remotegpu_graphql.enrollments.types import Enrollment
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.machines.types import Gpu, Machine
from remotegpu_graphql.relay import Node
from remotegpu_graphql.tokens.types import ApiToken
from remotegpu_graphql.users.types import User
from remotegpu_graphql.workspaces.types import Workspace

#: Ids that one `nodes` takes.
MAX_NODES = 100


async def load_node(context: Context, value: str) -> Node | None:
    """The object behind an id, None when there is none or not for this viewer."""
    parts = split_id(value)
    if parts is None:
        return None
    type_name, row_id = parts
    loaders = context.loaders
    match type_name:
        case "Machine":
            machine = await loaders.machine.load(row_id)
            return None if machine is None else Machine.of(machine)
        case "Gpu":
            gpu = await loaders.gpu.load(row_id)
            return None if gpu is None else Gpu.of(gpu)
        case "User":
            user = await loaders.user.load(row_id)
            return None if user is None else User.of(user)
        case "ApiToken":
            token = await loaders.api_token.load(row_id)
            return None if token is None else ApiToken.of(token)
        case "Enrollment":
            enrollment = await loaders.enrollment.load(row_id)
            return None if enrollment is None else Enrollment.of(enrollment)
        case "Workspace":
            workspace = await loaders.workspace.load(row_id)
            return None if workspace is None else Workspace.of(workspace)
        case "AuditEvent":
            event = await loaders.audit_event.load(row_id)
            return None if event is None else AuditEvent.of(event)
        case _:
            return None


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
            list[strawberry.ID], strawberry.argument(description="At most 100, of any types.")
        ],
    ) -> list[Node | None] | None:
        if len(ids) > MAX_NODES:
            raise InvalidInput(f"ids takes at most {MAX_NODES}, got {len(ids)}.", field="ids")
        return await asyncio.gather(*(load_node(info.context, value) for value in ids))

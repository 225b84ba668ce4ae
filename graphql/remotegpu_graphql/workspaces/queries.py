from typing import Annotated

import strawberry

from remotegpu_core.services import workspaces
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)
from remotegpu_graphql.workspaces.types import Workspace


@strawberry.type
class WorkspacesQuery:
    @query("Workspaces by name: all for admins, their own for others.")
    async def workspaces(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Workspace] | None:
        page = await workspaces.list_workspaces(
            info.context.actor, page_request(first, after, last, before)
        )
        return connection(page, Workspace.of)

    @query("A workspace by its id; null when there is none or not for you.")
    async def workspace(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Which.")]
    ) -> Workspace | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Workspace":
            return None
        row = await info.context.loaders.workspace.load(parts[1])
        return None if row is None else Workspace.of(row)

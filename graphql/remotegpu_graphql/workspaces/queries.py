import strawberry

from remotegpu_core.services import workspaces
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
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

import strawberry

from remotegpu_core.services import api_tokens, workspaces
from remotegpu_graphql.context import Info
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)
from remotegpu_graphql.tokens.types import ApiToken
from remotegpu_graphql.users.types import User
from remotegpu_graphql.workspaces.types import Workspace


@strawberry.type(description="Who asks.")
class Viewer:
    user: User = strawberry.field(description="The signed-in user.")

    @strawberry.field(description="Your API tokens, newest first.")
    async def api_tokens(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[ApiToken]:
        page = await api_tokens.list_api_tokens(
            info.context.actor, page_request(first, after, last, before)
        )
        return connection(page, ApiToken.of)

    @strawberry.field(description="Workspaces that you may see, by name.")
    async def workspaces(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Workspace]:
        page = await workspaces.list_workspaces(
            info.context.actor, page_request(first, after, last, before)
        )
        return connection(page, Workspace.of)

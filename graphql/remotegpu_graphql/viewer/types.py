from dataclasses import replace
from typing import Annotated

import strawberry

from remotegpu_core.services import api_tokens, ssh_keys, workspaces
from remotegpu_core.services.allocations.reading import (
    AllocationFilter,
    AllocationOrderField,
    list_allocations,
)
from remotegpu_graphql.allocations.inputs import AllocationFilterInput, AllocationOrder
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.context import Info
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.quotas.types import Quota
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)
from remotegpu_graphql.ssh_keys.types import SshKey
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

    @strawberry.field(description="Your SSH keys, newest first.")
    async def ssh_keys(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[SshKey]:
        page = await ssh_keys.list_ssh_keys(
            info.context.actor, page_request(first, after, last, before)
        )
        return connection(page, SshKey.of)

    @strawberry.field(description="How much you may have, and have.")
    async def quota(self, info: Info) -> Quota:
        found = await info.context.loaders.user_quota.load(info.context.actor.require_user())
        if found is None:
            raise LookupError("every user has a quota")
        return Quota.of(found)

    @strawberry.field(description="What is allocated to you.")
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
    ) -> Connection[Allocation]:
        info.context.note_not_mine("viewer.allocations", filter.mine if filter else None)
        chosen = filter.to_filter() if filter else AllocationFilter()
        page = await list_allocations(
            info.context.actor,
            page_request(first, after, last, before),
            replace(chosen, mine=True),
            order_field=order_by.field if order_by else AllocationOrderField.CREATED_AT,
            descending=order_by is None or order_by.direction is OrderDirection.DESC,
        )
        return connection(page, Allocation.of)

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

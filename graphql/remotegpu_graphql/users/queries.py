from typing import Annotated

import strawberry

from remotegpu_core.services import users
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)
from remotegpu_graphql.users.types import User


@strawberry.input(name="UserFilter", description="Everything given must hold.")
class UserFilterInput:
    text: str | None = strawberry.field(
        default=None, description="Part of the user name, in any case.", metadata=characters(0, 255)
    )


@strawberry.type
class UsersQuery:
    @query("Users, by name.", access=Access.ADMIN)
    async def users(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            UserFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
    ) -> Connection[User] | None:
        page = await users.list_users(
            info.context.actor,
            page_request(first, after, last, before),
            text=filter.text if filter else None,
        )
        return connection(page, User.of)

    @query("A user by their id: any for admins, yourself for others; null otherwise.")
    async def user(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Who.")]
    ) -> User | None:
        parts = split_id(id)
        if parts is None or parts[0] != "User":
            return None
        row = await info.context.loaders.user.load(parts[1])
        return None if row is None else User.of(row)

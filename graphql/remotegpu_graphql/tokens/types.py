import strawberry

from remotegpu_core import models
from remotegpu_core.actor import Scope
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime
from remotegpu_graphql.users.types import User

graph_enum(
    Scope,
    "What an API token may be used for.",
    {
        "READ": "Queries and subscriptions.",
        "WRITE": "Mutations too.",
        "ADMIN": "What only admins may do too; for tokens of admins.",
    },
)


@strawberry.type(description="A token for a program. Its secret is shown once, when it is made.")
class ApiToken(Node):
    row: strawberry.Private[models.ApiToken]
    name: str = strawberry.field(description="What it is for.")
    scopes: list[Scope] = strawberry.field(description="What it may be used for.")
    created_at: DateTime = strawberry.field(description="When it was made.")
    expires_at: DateTime | None = strawberry.field(description="When it ends; null for never.")
    revoked_at: DateTime | None = strawberry.field(description="When it was revoked.")
    last_used_at: DateTime | None = strawberry.field(
        description="When it was last used, to the minute."
    )

    @strawberry.field(description="Whose it is; null when you may not see them.")
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.user.load(self.row.user_id)
        return None if row is None else User.of(row)

    @classmethod
    def of(cls, row: models.ApiToken) -> "ApiToken":
        return cls(
            id=encode_id("ApiToken", row.id),
            row=row,
            name=row.name,
            scopes=[Scope(scope) for scope in row.scopes],
            created_at=DateTime(row.created_at),
            expires_at=_time(row.expires_at),
            revoked_at=_time(row.revoked_at),
            last_used_at=_time(row.last_used_at),
        )


def _time(value: int | None) -> DateTime | None:
    return None if value is None else DateTime(value)

import strawberry

from remotegpu_core import models
from remotegpu_core.actor import Role
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.quotas.types import Quota
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime

graph_enum(
    Role,
    "What a user may do.",
    {
        "ADMIN": "Everything: users, machines, grants, the audit trail.",
        "USER": "What they have been granted.",
    },
)


@strawberry.type(description="A person who signs in.")
class User(Node):
    username: str = strawberry.field(description="Unique in any case.")
    role: Role = strawberry.field(description="What they may do.")
    created_at: DateTime = strawberry.field(description="When the account was made.")
    disabled_at: DateTime | None = strawberry.field(
        description="Since when they are shut out; null while they are not."
    )

    row: strawberry.Private[models.User]

    @strawberry.field(description="How much they may have, and have.")
    async def quota(self, info: Info) -> Quota:
        found = await info.context.loaders.user_quota.load(self.row.id)
        if found is None:
            raise LookupError("every user has a quota")
        return Quota.of(found)

    @classmethod
    def of(cls, row: models.User) -> "User":
        return cls(
            id=encode_id("User", row.id),
            row=row,
            username=row.username,
            role=Role(row.role),
            created_at=DateTime(row.created_at),
            disabled_at=None if row.disabled_at is None else DateTime(row.disabled_at),
        )

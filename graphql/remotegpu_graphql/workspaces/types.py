import strawberry

from remotegpu_core import models
from remotegpu_core.models import WorkspaceRole
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.quotas.types import Quota
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime

graph_enum(
    WorkspaceRole,
    "What a member may do in a workspace.",
    {
        "OWNER": "Everything in it, its owners and its name too.",
        "ADMIN": "Manage its members, and what they have allocated.",
        "MEMBER": "Allocate its machines to themselves.",
        "VIEWER": "See what is in it.",
    },
)


@strawberry.type(description="Somebody in a workspace.")
class WorkspaceMember:
    user_id: strawberry.ID = strawberry.field(description="Who.")
    username: str = strawberry.field(description="Their name.")
    role: WorkspaceRole = strawberry.field(description="What they may do in it.")


@strawberry.type(description="A group of people who share machines.")
class Workspace(Node):
    row: strawberry.Private[models.Workspace]
    name: str = strawberry.field(description="Unique in any case.")
    created_at: DateTime = strawberry.field(description="When it was made.")

    @strawberry.field(description="Who is in it, in the order of their joining.")
    async def members(self, info: Info) -> list[WorkspaceMember]:
        return [
            WorkspaceMember(
                user_id=encode_id("User", member.user_id),
                username=member.user.username,
                role=WorkspaceRole(member.role),
            )
            for member in await info.context.loaders.members.load(self.row.id)
        ]

    @strawberry.field(description="How much everybody in it may have together, and has.")
    async def quota(self, info: Info) -> Quota:
        found = await info.context.loaders.workspace_quota.load(self.row.id)
        if found is None:
            raise LookupError("every workspace has a quota")
        return Quota.of(found)

    @classmethod
    def of(cls, row: models.Workspace) -> "Workspace":
        return cls(
            id=encode_id("Workspace", row.id),
            row=row,
            name=row.name,
            created_at=DateTime(row.created_at),
        )

from typing import Annotated

import strawberry

from remotegpu_core.models import WorkspaceRole
from remotegpu_core.services import workspaces
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.workspaces.types import Workspace


@strawberry.input(description="A new workspace.")
class CreateWorkspaceInput:
    name: str = strawberry.field(description="1 to 64 printable characters; unique in any case.")


@strawberry.type(description="Of createWorkspace.")
class CreateWorkspacePayload:
    workspace: Workspace | None = strawberry.field(default=None, description="The new workspace.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A member of a workspace.")
class SetWorkspaceMemberInput:
    workspace_id: strawberry.ID = strawberry.field(description="The workspace.")
    user_id: strawberry.ID = strawberry.field(description="The user.")
    role: WorkspaceRole = strawberry.field(
        default=WorkspaceRole.MEMBER, description="What they may do in it."
    )


@strawberry.type(description="Of setWorkspaceMember.")
class SetWorkspaceMemberPayload:
    workspace: Workspace | None = strawberry.field(default=None, description="The workspace.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A member to remove from a workspace.")
class RemoveWorkspaceMemberInput:
    workspace_id: strawberry.ID = strawberry.field(description="The workspace.")
    user_id: strawberry.ID = strawberry.field(description="The user.")


@strawberry.type(description="Of removeWorkspaceMember.")
class RemoveWorkspaceMemberPayload:
    workspace: Workspace | None = strawberry.field(default=None, description="The workspace.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class WorkspacesMutation:
    @mutation("Add a workspace.", access=Access.ADMIN)
    async def create_workspace(
        self,
        info: Info,
        input: Annotated[CreateWorkspaceInput, strawberry.argument(description="Its name.")],
    ) -> CreateWorkspacePayload | None:
        row = await workspaces.create_workspace(info.context.actor, input.name)
        return CreateWorkspacePayload(workspace=Workspace.of(row))

    @mutation("Add a member to a workspace, or change their role.", access=Access.ADMIN)
    async def set_workspace_member(
        self,
        info: Info,
        input: Annotated[SetWorkspaceMemberInput, strawberry.argument(description="Who.")],
    ) -> SetWorkspaceMemberPayload | None:
        row = await workspaces.set_member(
            info.context.actor,
            decode_id(input.workspace_id, "Workspace", field="workspaceId"),
            decode_id(input.user_id, "User", field="userId"),
            input.role,
        )
        await info.context.nudge()
        return SetWorkspaceMemberPayload(workspace=Workspace.of(row))

    @mutation(
        "Remove a member from a workspace. They stop seeing its machines within two seconds.",
        access=Access.ADMIN,
    )
    async def remove_workspace_member(
        self,
        info: Info,
        input: Annotated[RemoveWorkspaceMemberInput, strawberry.argument(description="Who.")],
    ) -> RemoveWorkspaceMemberPayload | None:
        row = await workspaces.remove_member(
            info.context.actor,
            decode_id(input.workspace_id, "Workspace", field="workspaceId"),
            decode_id(input.user_id, "User", field="userId"),
        )
        await info.context.nudge()
        return RemoveWorkspaceMemberPayload(workspace=Workspace.of(row))

from typing import Annotated

import strawberry

from remotegpu_core.models import WorkspaceRole
from remotegpu_core.services import workspaces
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, decode_optional
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.relay import Edge, edge, made_edge
from remotegpu_graphql.workspaces.types import Workspace


@strawberry.input(description="A new workspace.")
class CreateWorkspaceInput:
    name: str = strawberry.field(
        description="Printable; unique in any case.", metadata=characters(1, 64)
    )


@strawberry.type(description="Of createWorkspace.")
class CreateWorkspacePayload:
    workspace: Workspace | None = strawberry.field(default=None, description="The new workspace.")
    workspace_edge: Edge[Workspace] | None = made_edge("The workspace", "workspaces")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A member of a workspace.")
class SetWorkspaceMemberInput:
    workspace_id: strawberry.ID = strawberry.field(description="The workspace.")
    user_id: strawberry.ID | None = strawberry.field(
        default=None, description="The user, by id; or else by username."
    )
    username: str | None = strawberry.field(
        default=None,
        description="The user, by their name in any case.",
        metadata=characters(1, 64),
    )
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


@strawberry.input(description="Another name for a workspace.")
class RenameWorkspaceInput:
    workspace_id: strawberry.ID = strawberry.field(description="The workspace.")
    name: str = strawberry.field(
        description="Printable; unique in any case.", metadata=characters(1, 64)
    )


@strawberry.type(description="Of renameWorkspace.")
class RenameWorkspacePayload:
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
        return CreateWorkspacePayload(
            workspace=Workspace.of(row),
            workspace_edge=edge(row, workspaces.BY_NAME, Workspace.of),
        )

    @mutation("Give a workspace another name; its owners and the system's admins may.")
    async def rename_workspace(
        self,
        info: Info,
        input: Annotated[RenameWorkspaceInput, strawberry.argument(description="Which, how.")],
    ) -> RenameWorkspacePayload | None:
        row = await workspaces.rename_workspace(
            info.context.actor,
            decode_id(input.workspace_id, "Workspace", field="workspaceId"),
            input.name,
        )
        return RenameWorkspacePayload(workspace=Workspace.of(row))

    @mutation(
        "Add a member to a workspace, or change their role. Its admins manage members and viewers, "
        "its owners everybody; one owner stays."
    )
    async def set_workspace_member(
        self,
        info: Info,
        input: Annotated[SetWorkspaceMemberInput, strawberry.argument(description="Who.")],
    ) -> SetWorkspaceMemberPayload | None:
        row = await workspaces.set_member(
            info.context.actor,
            decode_id(input.workspace_id, "Workspace", field="workspaceId"),
            decode_optional(input.user_id, "User", field="userId"),
            input.role,
            username=input.username,
        )
        await info.context.nudge()
        return SetWorkspaceMemberPayload(workspace=Workspace.of(row))

    @mutation(
        "Remove a member from a workspace, or leave it yourself. They stop seeing its machines "
        "within two seconds."
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

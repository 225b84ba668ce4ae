from typing import Annotated

import strawberry

from remotegpu_core.services import grants
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, decode_optional
from remotegpu_graphql.machines.inputs import GrantMachineInput, RevokeMachineGrantInput
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access


@strawberry.type(description="Of grantMachine.")
class GrantMachinePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of revokeMachineGrant.")
class RevokeMachineGrantPayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class MachinesMutation:
    @mutation(
        "Let a user or a workspace see and watch a machine. Granting twice changes nothing.",
        access=Access.ADMIN,
    )
    async def grant_machine(
        self,
        info: Info,
        input: Annotated[GrantMachineInput, strawberry.argument(description="Who, and which.")],
    ) -> GrantMachinePayload | None:
        machine = await grants.grant_machine(
            info.context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            user_id=decode_optional(input.user_id, "User", field="userId"),
            workspace_id=decode_optional(input.workspace_id, "Workspace", field="workspaceId"),
        )
        await info.context.nudge()
        return GrantMachinePayload(machine=Machine.of(machine))

    @mutation(
        "Take such a grant back. Live streams of the machine end within two seconds.",
        access=Access.ADMIN,
    )
    async def revoke_machine_grant(
        self,
        info: Info,
        input: Annotated[
            RevokeMachineGrantInput, strawberry.argument(description="Whose, and which.")
        ],
    ) -> RevokeMachineGrantPayload | None:
        machine = await grants.revoke_machine_grant(
            info.context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            user_id=decode_optional(input.user_id, "User", field="userId"),
            workspace_id=decode_optional(input.workspace_id, "Workspace", field="workspaceId"),
        )
        await info.context.nudge()
        return RevokeMachineGrantPayload(machine=Machine.of(machine))

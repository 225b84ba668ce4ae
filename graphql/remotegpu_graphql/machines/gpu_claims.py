"""What admins do about GPUs that two machines' hosts report."""

from typing import Annotated

import strawberry

from remotegpu_core.services import gpu_claims
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.machines.types import Gpu
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access


@strawberry.input(description="Which machine a GPU is in.")
class AssignGpuInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine that has it.")
    uuid: str = strawberry.field(
        description="The GPU's UUID, as the machine's host reports it.", metadata=characters(1, 128)
    )


@strawberry.type(description="Of assignGpu.")
class AssignGpuPayload:
    gpu: Gpu | None = strawberry.field(default=None, description="The GPU in its machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class GpuClaimsMutation:
    @mutation(
        "Say which of the machines whose hosts report a GPU has it. The reports of the others are "
        "claims from then on that change nothing. CONFLICT while an allocation has the GPU, or has "
        "booked it, in another machine; NOT_FOUND when the machine's host does not report it.",
        access=Access.ADMIN,
    )
    async def assign_gpu(
        self,
        info: Info,
        input: Annotated[AssignGpuInput, strawberry.argument(description="Which, where.")],
    ) -> AssignGpuPayload | None:
        row = await gpu_claims.assign(
            info.context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            input.uuid,
        )
        await info.context.nudge()
        return AssignGpuPayload(gpu=Gpu.of(row))

from typing import Annotated

import strawberry

from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.reading import DEFAULT_ORDER
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.allocations.retry import retry_reclaim
from remotegpu_graphql.allocations.inputs import (
    AllocateInput,
    ExtendAllocationInput,
    OverrideQuarantineInput,
    ReleaseAllocationInput,
    RetryReclaimInput,
)
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, decode_optional
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.relay import Edge, edge, made_edge


@strawberry.type(description="Of allocate.")
class AllocatePayload:
    allocation: Allocation | None = strawberry.field(default=None, description="The allocation.")
    operation: Operation | None = strawberry.field(
        default=None, description="Ends when the host has it: reserve, then start."
    )
    allocation_edge: Edge[Allocation] | None = made_edge("The allocation", "allocations")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of extendAllocation.")
class ExtendAllocationPayload:
    allocation: Allocation | None = strawberry.field(default=None, description="The allocation.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of releaseAllocation.")
class ReleaseAllocationPayload:
    allocation: Allocation | None = strawberry.field(default=None, description="The allocation.")
    operation: Operation | None = strawberry.field(
        default=None, description="Ends when what it held is proven clean."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of retryReclaim.")
class RetryReclaimPayload:
    operation: Operation | None = strawberry.field(
        default=None, description="Ends when what the allocation held is proven clean."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of overrideQuarantine.")
class OverrideQuarantinePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class AllocationsMutation:
    @mutation(
        "Allocate a machine, or GPUs of one, for a time: to yourself within your quota and among "
        "the machines that you have a grant on, or to others if you are an admin. Answered at "
        "once; the operation says when the host has it."
    )
    async def allocate(
        self,
        info: Info,
        input: Annotated[AllocateInput, strawberry.argument(description="What is wanted.")],
    ) -> AllocatePayload | None:
        context = info.context
        allocation, operation = await allocate(
            context.actor, context.plane.settings, input.to_request(), key=input.idempotency_key
        )
        await context.nudge()
        return AllocatePayload(
            allocation=Allocation.of(allocation),
            allocation_edge=edge(allocation, DEFAULT_ORDER, Allocation.of),
            operation=Operation.of(operation),
        )

    @mutation(
        "Let an allocation end at another time: refused with NO_CAPACITY where somebody has booked "
        "it from then on. Its user may, whoever manages allocations in its workspace, and admins."
    )
    async def extend_allocation(
        self,
        info: Info,
        input: Annotated[ExtendAllocationInput, strawberry.argument(description="Which, until.")],
    ) -> ExtendAllocationPayload | None:
        context = info.context
        allocation = await extend(
            context.actor,
            context.plane.settings,
            decode_id(input.id, "Allocation", field="id"),
            input.ends_at,
        )
        await context.nudge()
        return ExtendAllocationPayload(allocation=Allocation.of(allocation))

    @mutation(
        "Give an allocation back before its end. Its host takes back what it had; only then is it "
        "free for the next one. Again, where cleaning failed, to have it tried again. Its user "
        "may, whoever manages allocations in its workspace, and admins."
    )
    async def release_allocation(
        self,
        info: Info,
        input: Annotated[ReleaseAllocationInput, strawberry.argument(description="Which.")],
    ) -> ReleaseAllocationPayload | None:
        context = info.context
        allocation, operation = await release(
            context.actor,
            decode_id(input.id, "Allocation", field="id"),
            key=input.idempotency_key,
        )
        await context.nudge()
        return ReleaseAllocationPayload(
            allocation=Allocation.of(allocation), operation=Operation.of(operation)
        )

    @mutation(
        "Have cleaned again what a host failed to clean: an allocation, or the oldest one on a "
        "machine. A proven receipt ends the allocation's cause of quarantine.",
        access=Access.ADMIN,
    )
    async def retry_reclaim(
        self,
        info: Info,
        input: Annotated[RetryReclaimInput, strawberry.argument(description="Which.")],
    ) -> RetryReclaimPayload | None:
        context = info.context
        operation = await retry_reclaim(
            context.actor,
            allocation_id=decode_optional(input.allocation_id, "Allocation", field="allocationId"),
            machine_id=decode_optional(input.machine_id, "Machine", field="machineId"),
            key=input.idempotency_key,
        )
        await context.nudge()
        return RetryReclaimPayload(operation=Operation.of(operation))

    @mutation(
        "Answer for a quarantined machine with your word. What was not proven clean on it gets a "
        "receipt that is not verified and says who and why. Also for a machine that is not heard any "
        "more, with something on it that waits to be cleaned. It is back in service if no other of its "
        "quarantineCauses is left.",
        access=Access.ADMIN,
    )
    async def override_quarantine(
        self,
        info: Info,
        input: Annotated[OverrideQuarantineInput, strawberry.argument(description="Which, why.")],
    ) -> OverrideQuarantinePayload | None:
        context = info.context
        machine = await override_quarantine(
            context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            input.reason,
        )
        await context.nudge()
        return OverrideQuarantinePayload(machine=Machine.of(machine))

"""What allocating would do."""

import strawberry

from remotegpu_core.services.allocations.allocate import Plan
from remotegpu_graphql.allocations.types import PendingReason
from remotegpu_graphql.context import Info
from remotegpu_graphql.machines.types import Gpu, Machine
from remotegpu_graphql.scalars import DateTime


@strawberry.type(description="What allocate would do, as things are at this moment.")
class AllocationPlan:
    row: strawberry.Private[Plan]
    possible: bool = strawberry.field(description="Whether it would be given, without waiting.")
    starts_at: DateTime | None = strawberry.field(
        description="From when it could be, as things are booked; null when that is not known."
    )
    ends_at: DateTime = strawberry.field(description="Until when.")
    reasons: list[PendingReason] = strawberry.field(
        description="Why it would not be given; empty when it would."
    )

    @strawberry.field(description="Where it would go; null when nowhere.")
    async def machine(self, info: Info) -> Machine | None:
        if self.row.machine_id is None:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)

    @strawberry.field(description="The GPUs that it would get, by their index.")
    async def gpus(self, info: Info) -> list[Gpu]:
        rows = await info.context.loaders.gpu.load_many(list(self.row.gpu_ids))
        return [Gpu.of(row) for row in rows if row is not None]

    @classmethod
    def of(cls, found: Plan) -> "AllocationPlan":
        return cls(
            row=found,
            possible=not found.reasons,
            starts_at=None if found.starts_at is None else DateTime(found.starts_at),
            ends_at=DateTime(found.ends_at),
            reasons=[PendingReason.of(reason) for reason in found.reasons],
        )

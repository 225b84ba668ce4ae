"""Why machines are quarantined."""

from typing import TYPE_CHECKING, Annotated

import strawberry

from remotegpu_core import models
from remotegpu_core.services import quarantine
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.scalars import DateTime

if TYPE_CHECKING:
    from remotegpu_graphql.allocations.types import Allocation
    from remotegpu_graphql.machines.types import Gpu

graph_enum(
    CauseCode,
    "Why a machine is kept out of use. New values may come.",
    {
        "HOST_CLONED": "Two hosts use its key.",
        "ALLOCATIONS_UNKNOWN": "It has allocations that the database does not know.",
        "JOURNAL_UNKNOWN": "Its agent's journal of commands is not the one that it had.",
        "JOURNAL_BEHIND": "Its agent's journal is older than what it has told already.",
        "JOURNAL_AHEAD": "Its agent has told more than the database knows: the database was "
        "restored from a backup.",
        "RECORDS_DAMAGED": "Its agent cannot read its record of what was given to whom.",
        "HARDWARE_CONFLICT": "Another machine has the hardware UUID of its host, and no admin has allowed that.",
        "ADDRESS_CONFLICT": "Another machine has, or says that it has, an address of it.",
        "CLEANING_FAILED": "An allocation on it could not be proven clean.",
        "STARTS_FAILED": "Several starts of allocations failed in a row.",
        "OTHER": "It was quarantined before causes were kept.",
    },
    name="QuarantineCauseCode",
)


@strawberry.type(description="One reason to keep a machine out of use.")
class QuarantineCause:
    row: strawberry.Private[models.QuarantineCause]
    code: CauseCode = strawberry.field(description="What kind of reason.")
    message: str = strawberry.field(description="What is wrong.")
    next_step: str = strawberry.field(description="What ends it.")
    since: DateTime = strawberry.field(description="When it began.")

    @strawberry.field(description="The GPU that it is about; null when it is about the host.")
    async def gpu(
        self, info: Info
    ) -> Annotated["Gpu", strawberry.lazy("remotegpu_graphql.machines.types")] | None:
        # They mention each other.
        from remotegpu_graphql.machines.types import Gpu as Shown

        if self.row.gpu_id is None:
            return None
        row = await info.context.loaders.gpu.load(self.row.gpu_id)
        return None if row is None else Shown.of(row)

    @strawberry.field(
        description="The allocation that could not be cleaned; null for other causes, and where you "
        "may not see it."
    )
    async def allocation(
        self, info: Info
    ) -> Annotated["Allocation", strawberry.lazy("remotegpu_graphql.allocations.types")] | None:
        from remotegpu_graphql.allocations.types import Allocation as Shown

        if self.row.allocation_id is None:
            return None
        row = await info.context.loaders.allocation.load(self.row.allocation_id)
        return None if row is None else Shown.of(row)

    @classmethod
    def of(cls, row: models.QuarantineCause) -> "QuarantineCause":
        return cls(
            row=row,
            code=CauseCode(row.code),
            message=row.message,
            next_step=quarantine.next_step(row.code),
            since=DateTime(row.since),
        )

from typing import TYPE_CHECKING, Annotated

import strawberry

from remotegpu_core import models
from remotegpu_core.states import OperationState, StepState
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime

if TYPE_CHECKING:
    from remotegpu_graphql.allocations.types import Allocation

graph_enum(
    OperationState,
    "Where an operation stands.",
    {
        "PENDING": "Nothing of it has begun.",
        "RUNNING": "It is under way.",
        "SUCCEEDED": "It is done.",
        "FAILED": "It is over without being done; the error says why.",
        "CANCELLED": "It was called off.",
        "INDETERMINATE": "Its host died at the wrong moment: nobody can tell whether it was done.",
    },
)
graph_enum(
    StepState,
    "Where a step of an operation stands.",
    {
        "PENDING": "It has not begun.",
        "RUNNING": "It is under way.",
        "SUCCEEDED": "It is done.",
        "FAILED": "It was not done; the error says why.",
        "SKIPPED": "It was not needed, or never reached.",
    },
)


@strawberry.type(description="Why something failed.")
class Failure:
    code: str = strawberry.field(
        description="For programs; new codes may come. Of a host, or one of the control plane's."
    )
    message: str = strawberry.field(description="For people.")

    @classmethod
    def of(cls, code: str | None, message: str | None) -> "Failure | None":
        return None if code is None else cls(code=code, message=message or "")


@strawberry.type(description="A step of an operation.")
class OperationStep:
    name: str = strawberry.field(description="What is done, such as start; new ones may come.")
    state: StepState = strawberry.field(description="Where it stands.")
    started_at: DateTime | None = strawberry.field(description="When it began.")
    finished_at: DateTime | None = strawberry.field(description="When it was over.")
    detail: str | None = strawberry.field(description="What exactly is being done, for people.")
    error: Failure | None = strawberry.field(description="Why it failed.")

    @classmethod
    def of(cls, row: models.OperationStep) -> "OperationStep":
        return cls(
            name=row.name,
            state=StepState(row.state),
            started_at=None if row.started_at is None else DateTime(row.started_at),
            finished_at=None if row.finished_at is None else DateTime(row.finished_at),
            detail=row.detail,
            error=Failure.of(row.error_code, row.error_message),
        )


@strawberry.type(
    description="Something that takes time. Follow it with operationChanged until it is final."
)
class Operation(Node):
    row: strawberry.Private[models.Operation]
    kind: str = strawberry.field(
        description="What it does, such as allocate or release; new kinds may come."
    )
    state: OperationState = strawberry.field(description="Where it stands.")
    progress: float = strawberry.field(description="How much of it is done, 0 to 1.")
    created_at: DateTime = strawberry.field(description="When it was asked for.")
    finished_at: DateTime | None = strawberry.field(description="When it was over.")
    cancel_requested_at: DateTime | None = strawberry.field(
        description="When somebody asked for it to be called off."
    )
    error: Failure | None = strawberry.field(description="Why it failed.")

    @strawberry.field(description="Its steps, in their order.")
    async def steps(self, info: Info) -> list[OperationStep]:
        rows = await info.context.loaders.steps.load(self.row.id)
        return [OperationStep.of(row) for row in rows]

    @strawberry.field(description="The machine that it is about; null when you may not see it.")
    async def machine(self, info: Info) -> Machine | None:
        if self.row.machine_id is None:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)

    @strawberry.field(description="The allocation that it is about.")
    async def allocation(
        self, info: Info
    ) -> Annotated["Allocation", strawberry.lazy("remotegpu_graphql.allocations.types")] | None:

        # They mention each other.
        from remotegpu_graphql.allocations.types import Allocation as Shown

        if self.row.allocation_id is None:
            return None
        row = await info.context.loaders.allocation.load(self.row.allocation_id)
        return None if row is None else Shown.of(row)

    @classmethod
    def of(cls, row: models.Operation) -> "Operation":
        cancel = row.cancel_requested_at
        return cls(
            id=encode_id("Operation", row.id),
            row=row,
            kind=row.kind,
            state=OperationState(row.state),
            progress=row.progress,
            created_at=DateTime(row.created_at),
            finished_at=None if row.finished_at is None else DateTime(row.finished_at),
            cancel_requested_at=None if cancel is None else DateTime(cancel),
            error=Failure.of(row.error_code, row.error_message),
        )

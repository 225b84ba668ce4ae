import strawberry

from remotegpu_core.services.allocations.reading import AllocationFilter
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_graphql.allocations.enums import AllocationOrderField, AllocationState
from remotegpu_graphql.bounds import characters, choices, items
from remotegpu_graphql.ids import decode_filter, decode_id, decode_optional
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.machines.inputs import LabelInput
from remotegpu_graphql.payloads import idempotency_key
from remotegpu_graphql.scalars import ByteCount, DateTime
from remotegpu_protocol.limits import MAX_GPUS, MAX_LABELS


@strawberry.input(
    description="What a machine must have. The best fit is taken: the one with the fewest GPUs "
    "left over, then with the least memory."
)
class RequirementInput:
    gpu_count: int | None = strawberry.field(
        default=None,
        description="So many GPUs, 1 to 64; a whole machine, all of whose GPUs are as asked, when "
        "left out.",
    )
    gpu_model: str | None = strawberry.field(
        default=None,
        description="Part of the GPUs' model, in any case, such as A100.",
        metadata=characters(0, 255),
    )
    gpu_memory_at_least: ByteCount | None = strawberry.field(
        default=None, description="Memory of each GPU."
    )
    labels: list[LabelInput] | None = strawberry.field(
        default=None,
        description="All of these labels, with these values.",
        metadata=items(0, MAX_LABELS),
    )

    def to_requirement(self) -> Requirement:
        return Requirement(
            gpu_count=self.gpu_count,
            gpu_model=self.gpu_model,
            gpu_memory_at_least=self.gpu_memory_at_least,
            labels=tuple((label.key, label.value) for label in self.labels or []),
        )


@strawberry.input(
    description="What is wanted, by whom, for how long: either machineId, with gpuIds of it or "
    "else all of it, or a requirement."
)
class AllocateInput:
    machine_id: strawberry.ID | None = strawberry.field(
        default=None, description="A machine by its id."
    )
    gpu_ids: list[strawberry.ID] | None = strawberry.field(
        default=None,
        description="GPUs of that machine, each once; the whole machine when left out.",
        metadata=items(1, MAX_GPUS),
    )
    requirement: RequirementInput | None = strawberry.field(
        default=None, description="Whatever fits, instead of a machine by its id."
    )
    user_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="Whose it becomes: yours when left out. Admins give to anybody, admins of a "
        "workspace to its members.",
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="A workspace that it counts for too; its members see it, its admins manage it.",
    )
    starts_at: DateTime | None = strawberry.field(
        default=None,
        description="From when; now when left out. Later is a reservation, which binds.",
    )
    ends_at: DateTime = strawberry.field(description="Until when.")
    wait: bool = strawberry.field(
        default=False,
        description="Where nothing fits: true waits for a place, first come first served; false "
        "answers NO_CAPACITY.",
    )
    idempotency_key: str | None = idempotency_key()

    def to_request(self) -> AllocateRequest:
        return AllocateRequest(
            machine_id=decode_optional(self.machine_id, "Machine", field="machineId"),
            gpu_ids=None
            if self.gpu_ids is None
            else tuple(decode_id(gpu_id, "Gpu", field="gpuIds") for gpu_id in self.gpu_ids),
            requirement=self.requirement.to_requirement() if self.requirement else None,
            user_id=decode_optional(self.user_id, "User", field="userId"),
            workspace_id=decode_optional(self.workspace_id, "Workspace", field="workspaceId"),
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            wait=bool(self.wait),
        )


@strawberry.input(description="Another end for an allocation.")
class ExtendAllocationInput:
    id: strawberry.ID = strawberry.field(description="The allocation.")
    ends_at: DateTime = strawberry.field(description="Until when from now on; also earlier.")


@strawberry.input(description="An allocation to give back.")
class ReleaseAllocationInput:
    id: strawberry.ID = strawberry.field(description="The allocation.")
    idempotency_key: str | None = idempotency_key()


@strawberry.input(description="What to have cleaned again: one of the two.")
class RetryReclaimInput:
    allocation_id: strawberry.ID | None = strawberry.field(
        default=None, description="An allocation whose cleaning failed."
    )
    machine_id: strawberry.ID | None = strawberry.field(
        default=None, description="A machine: of what failed to be cleaned on it, the oldest."
    )
    idempotency_key: str | None = idempotency_key()


@strawberry.input(description="A machine to trust again without a proof, and why.")
class OverrideQuarantineInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    reason: str = strawberry.field(
        description="For the receipts and the audit trail: what was done.",
        metadata=characters(1, 500),
    )


@strawberry.input(description="A range of times. Left out, an end is open.")
class DateTimeRange:
    since: DateTime | None = strawberry.field(default=None, description="From then on.")
    until: DateTime | None = strawberry.field(default=None, description="Before then.")

    def to_range(self) -> tuple[int | None, int | None]:
        return self.since, self.until


@strawberry.input(
    name="AllocationFilter",
    description="Everything given must hold; of a list, any of its values.",
)
class AllocationFilterInput:
    state: list[AllocationState] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(AllocationState)
    )
    user_id: strawberry.ID | None = strawberry.field(default=None, description="Of this user.")
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="In this workspace."
    )
    machine_id: strawberry.ID | None = strawberry.field(
        default=None, description="On this machine."
    )
    mine: bool | None = strawberry.field(
        default=None, description="True: only your own. False is as if left out."
    )
    starts_at: DateTimeRange | None = strawberry.field(
        default=None, description="Starting within this range."
    )
    ends_at: DateTimeRange | None = strawberry.field(
        default=None, description="Ending within this range."
    )

    def to_filter(self) -> AllocationFilter:
        return AllocationFilter(
            state=self.state,
            user_id=decode_filter(self.user_id, "User"),
            workspace_id=decode_filter(self.workspace_id, "Workspace"),
            machine_id=decode_filter(self.machine_id, "Machine"),
            mine=self.mine,
            starts_at=self.starts_at.to_range() if self.starts_at else (None, None),
            ends_at=self.ends_at.to_range() if self.ends_at else (None, None),
        )


@strawberry.input(description="How allocations are ordered.")
class AllocationOrder:
    field: AllocationOrderField = strawberry.field(description="By what.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.DESC, description="Which way."
    )

import strawberry

from remotegpu_core.services.gpus import GpuFilter, GpuOrderField
from remotegpu_core.services.machines import MachineFilter, MachineOrderField
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from remotegpu_graphql.bounds import characters, choices, items
from remotegpu_graphql.ids import decode_filter
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.scalars import ByteCount
from remotegpu_protocol.limits import MAX_LABELS


@strawberry.input(description="A label to ask for or to give.")
class LabelInput:
    key: str = strawberry.field(
        description="Letters, digits, '.', '_', '-' or '/'.", metadata=characters(1, 63)
    )
    value: str = strawberry.field(description="Printable.", metadata=characters(0, 255))


@strawberry.input(
    name="FreeGpusFilter",
    description="GPUs in one machine that no allocation holds now, and that work.",
)
class FreeGpusInput:
    at_least: int = strawberry.field(description="So many of them, 1 to 64.")
    model: str | None = strawberry.field(
        default=None, description="Part of their model, in any case.", metadata=characters(0, 255)
    )

    def to_pair(self) -> tuple[str | None, int]:
        return self.model, self.at_least


@strawberry.input(
    name="MachineFilter",
    description="Everything given must hold; of a list, any of its values.",
)
class MachineFilterInput:
    presence: list[Presence] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(Presence)
    )
    lifecycle: list[Lifecycle] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(Lifecycle)
    )
    availability: list[Availability] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(Availability)
    )
    health: list[Health] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(Health)
    )
    gpu_model: str | None = strawberry.field(
        default=None,
        description="Part of the model of one of its GPUs, in any case.",
        metadata=characters(0, 255),
    )
    labels: list[LabelInput] | None = strawberry.field(
        default=None,
        description="All of these labels, with these values.",
        metadata=items(0, MAX_LABELS),
    )
    text: str | None = strawberry.field(
        default=None,
        description="Part of its name or of a GPU's model, in any case.",
        metadata=characters(0, 255),
    )
    free_gpus: FreeGpusInput | None = strawberry.field(
        default=None, description="With GPUs that can be had at this moment."
    )
    mine: bool | None = strawberry.field(
        default=None,
        description="True: only machines that you or a workspace of yours have a grant on. False is "
        "as if left out.",
    )

    def to_filter(self) -> MachineFilter:
        return MachineFilter(
            presence=self.presence,
            lifecycle=self.lifecycle,
            availability=self.availability,
            health=self.health,
            gpu_model=self.gpu_model,
            labels=[(label.key, label.value) for label in self.labels or []],
            text=self.text,
            free_gpus=self.free_gpus.to_pair() if self.free_gpus else None,
            mine=self.mine,
        )


@strawberry.input(
    name="GpuFilter", description="Everything given must hold; of a list, any of its values."
)
class GpuFilterInput:
    model: str | None = strawberry.field(
        default=None, description="Part of its model, in any case.", metadata=characters(0, 255)
    )
    memory_at_least: ByteCount | None = strawberry.field(default=None, description="Its memory.")
    health: list[Health] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(Health)
    )
    machine_id: strawberry.ID | None = strawberry.field(
        default=None, description="In this machine."
    )
    free: bool | None = strawberry.field(
        default=None, description="Whether no allocation holds it at this moment."
    )

    def to_filter(self) -> GpuFilter:
        return GpuFilter(
            model=self.model,
            memory_at_least=self.memory_at_least,
            health=self.health,
            machine_id=decode_filter(self.machine_id, "Machine"),
            free=self.free,
        )


@strawberry.input(description="How machines are ordered.")
class MachineOrder:
    field: MachineOrderField = strawberry.field(description="By what.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )


@strawberry.input(description="How GPUs are ordered.")
class GpuOrder:
    field: GpuOrderField = strawberry.field(description="By what.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )


@strawberry.input(description="Who is to see which machine. Give either userId or workspaceId.")
class GrantMachineInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    user_id: strawberry.ID | None = strawberry.field(default=None, description="A user.")
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="A workspace, that is everybody in it."
    )


@strawberry.input(description="Whose grant is to be taken. Give either userId or workspaceId.")
class RevokeMachineGrantInput(GrantMachineInput):
    pass

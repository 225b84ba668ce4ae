"""What operators do with machines."""

import uuid
from typing import Annotated

import strawberry

from remotegpu_core.services import hosts, maintenance, retirement
from remotegpu_core.services.maintenance import MAX_REASON
from remotegpu_graphql.bounds import characters, items
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.machines.inputs import LabelInput
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_protocol.limits import MAX_LABELS


@strawberry.input(description="A machine to take out of service, and why.")
class StartMaintenanceInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    reason: str = strawberry.field(
        description="Shown to everybody who sees the machine.", metadata=characters(1, MAX_REASON)
    )


@strawberry.type(description="Of startMaintenance.")
class StartMaintenancePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A machine to put back into service.")
class EndMaintenanceInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")


@strawberry.type(description="Of endMaintenance.")
class EndMaintenancePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Whether new allocations may be placed on a machine.")
class DrainMachineInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    draining: bool = strawberry.field(
        default=True, description="True: none are. False: they are again."
    )


@strawberry.type(description="Of drainMachine.")
class DrainMachinePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Another name for a machine.")
class RenameMachineInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    name: str = strawberry.field(
        description="Letters, digits, '.', '_' or '-'; unique in any case.",
        metadata=characters(1, 63),
    )


@strawberry.type(description="Of renameMachine.")
class RenameMachinePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="The labels of a machine, all of them.")
class SetMachineLabelsInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    labels: list[LabelInput] = strawberry.field(
        description="Those that it has and that are not here go.", metadata=items(0, MAX_LABELS)
    )


@strawberry.type(description="Of setMachineLabels.")
class SetMachineLabelsPayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A machine to give up for good.")
class RetireMachineInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")


@strawberry.type(description="Of retireMachine.")
class RetireMachinePayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A held host to trust again.")
class AcceptHostInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")


@strawberry.type(description="Of acceptHost.")
class AcceptHostPayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class MaintenanceMutation:
    @mutation(
        "Take a machine out of service: what runs on it goes on, nothing new is placed. Again with "
        "another reason to change the reason.",
        access=Access.ADMIN,
    )
    async def start_maintenance(
        self,
        info: Info,
        input: Annotated[StartMaintenanceInput, strawberry.argument(description="Which, why.")],
    ) -> StartMaintenancePayload | None:
        machine = await maintenance.start_maintenance(
            info.context.actor, _machine_id(input.machine_id), input.reason
        )
        await info.context.nudge()
        return StartMaintenancePayload(machine=Machine.of(machine))

    @mutation("Put a machine in MAINTENANCE back into service.", access=Access.ADMIN)
    async def end_maintenance(
        self,
        info: Info,
        input: Annotated[EndMaintenanceInput, strawberry.argument(description="Which.")],
    ) -> EndMaintenancePayload | None:
        machine = await maintenance.end_maintenance(
            info.context.actor, _machine_id(input.machine_id)
        )
        await info.context.nudge()
        return EndMaintenancePayload(machine=Machine.of(machine))

    @mutation(
        "Place no new allocations on a machine, those that there are go on; or place them again.",
        access=Access.ADMIN,
    )
    async def drain_machine(
        self,
        info: Info,
        input: Annotated[DrainMachineInput, strawberry.argument(description="Which, whether.")],
    ) -> DrainMachinePayload | None:
        machine = await maintenance.set_draining(
            info.context.actor, _machine_id(input.machine_id), input.draining
        )
        await info.context.nudge()
        return DrainMachinePayload(machine=Machine.of(machine))

    @mutation("Give a machine another name. Its id stays.", access=Access.ADMIN)
    async def rename_machine(
        self,
        info: Info,
        input: Annotated[RenameMachineInput, strawberry.argument(description="Which, how.")],
    ) -> RenameMachinePayload | None:
        machine = await maintenance.rename(
            info.context.actor, _machine_id(input.machine_id), input.name
        )
        await info.context.nudge()
        return RenameMachinePayload(machine=Machine.of(machine))

    @mutation("Give a machine these labels and no others.", access=Access.ADMIN)
    async def set_machine_labels(
        self,
        info: Info,
        input: Annotated[SetMachineLabelsInput, strawberry.argument(description="Which, what.")],
    ) -> SetMachineLabelsPayload | None:
        machine = await maintenance.set_labels(
            info.context.actor,
            _machine_id(input.machine_id),
            [(label.key, label.value) for label in input.labels],
        )
        await info.context.nudge()
        return SetMachineLabelsPayload(machine=Machine.of(machine))

    @mutation(
        "Give a machine up for good: its agent is shut out, and its GPUs may turn up in another. "
        "Refused while somebody has it or has booked it. What waits in vain to be cleaned there gets a "
        "receipt that is not verified and names you. To use the host again, enrol it as a new machine.",
        access=Access.ADMIN,
    )
    async def retire_machine(
        self,
        info: Info,
        input: Annotated[RetireMachineInput, strawberry.argument(description="Which.")],
    ) -> RetireMachinePayload | None:
        context = info.context
        machine = await retirement.retire(context.actor, _machine_id(input.machine_id))
        # The link is cut at once where the bus is there, and refused when it next says something.
        await context.plane.bus.fence(machine.id, machine.epoch)
        await context.nudge()
        return RetireMachinePayload(machine=Machine.of(machine))

    @mutation(
        "Trust a host again to which nothing was sent any more, see `Machine.commandHold`: its "
        "journal and its boot are the ones from now on. Make sure first that it is the only one "
        "with this machine's key. Allocations that it has and that are not known here are taken back and "
        "cleaned: somebody may still use them.",
        access=Access.ADMIN,
    )
    async def accept_host(
        self,
        info: Info,
        input: Annotated[AcceptHostInput, strawberry.argument(description="Which.")],
    ) -> AcceptHostPayload | None:
        context = info.context
        machine = await hosts.accept_host(context.actor, _machine_id(input.machine_id))
        await context.plane.bus.fence(machine.id, machine.epoch)
        await context.nudge()
        return AcceptHostPayload(machine=Machine.of(machine))


def _machine_id(value: strawberry.ID) -> uuid.UUID:
    return decode_id(value, "Machine", field="machineId")

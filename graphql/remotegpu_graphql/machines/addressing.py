"""What admins do about addresses of machines."""

from typing import Annotated

import strawberry

from remotegpu_core.services.addresses import admin
from remotegpu_core.services.addresses.admin import MAX_GIVEN
from remotegpu_graphql.bounds import characters, items
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_protocol.inventory import AddressKind
from remotegpu_protocol.limits import MAX_ADDRESSES


@strawberry.input(description="An address to give to a machine.")
class AddressInput:
    address: str = strawberry.field(
        description="IPv4 without leading zeros or IPv6, one that others may reach a host by.",
        metadata=characters(1, 64),
    )
    kind: AddressKind = strawberry.field(description="What it is for.")


@strawberry.input(description="The addresses that admins give a machine, all of them.")
class SetMachineAddressesInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine.")
    addresses: list[AddressInput] = strawberry.field(
        description="Those that admins gave it before and that are not here go.",
        metadata=items(0, MAX_GIVEN),
    )
    take_over: bool = strawberry.field(
        default=False,
        description="Whether to take those that another machine's host says it has. That machine is "
        "quarantined with ADDRESS_CONFLICT until its host says so no more.",
    )


@strawberry.type(description="Of setMachineAddresses.")
class SetMachineAddressesPayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="Contested addresses that a machine may have all the same.")
class AcceptMachineAddressesInput:
    machine_id: strawberry.ID = strawberry.field(description="The machine that is quarantined.")
    addresses: list[str] = strawberry.field(
        description="Which of its contested addresses, so that none is accepted unseen.",
        metadata=items(1, MAX_GIVEN + MAX_ADDRESSES) | characters(1, 64),
    )
    reason: str = strawberry.field(description="For the audit trail.", metadata=characters(1, 500))


@strawberry.type(description="Of acceptMachineAddresses.")
class AcceptMachineAddressesPayload:
    machine: Machine | None = strawberry.field(default=None, description="The machine.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class AddressingMutation:
    @mutation(
        "Give a machine these addresses beside those that its agent reports, and no others; of one "
        "that the agent reports too, this kind counts. CONFLICT when another machine has one in "
        "the same scope, unless takeOver is set and only that machine's host says so.",
        access=Access.ADMIN,
    )
    async def set_machine_addresses(
        self,
        info: Info,
        input: Annotated[SetMachineAddressesInput, strawberry.argument(description="Which, what.")],
    ) -> SetMachineAddressesPayload | None:
        machine = await admin.set_addresses(
            info.context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            [(given.address, given.kind) for given in input.addresses],
            take_over=input.take_over,
        )
        await info.context.nudge()
        return SetMachineAddressesPayload(machine=Machine.of(machine))

    @mutation(
        "Accept that a machine has addresses which another one has, or claims, too; when none is left "
        "that was not accepted, the quarantine of both for them ends. That holds until it reports without them, or "
        "goes to another site.",
        access=Access.ADMIN,
    )
    async def accept_machine_addresses(
        self,
        info: Info,
        input: Annotated[
            AcceptMachineAddressesInput, strawberry.argument(description="Which, why.")
        ],
    ) -> AcceptMachineAddressesPayload | None:
        machine = await admin.accept_addresses(
            info.context.actor,
            decode_id(input.machine_id, "Machine", field="machineId"),
            input.addresses,
            input.reason,
        )
        await info.context.nudge()
        return AcceptMachineAddressesPayload(machine=Machine.of(machine))

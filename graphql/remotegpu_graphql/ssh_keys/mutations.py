from typing import Annotated

import strawberry

from remotegpu_core.services import ssh_keys
from remotegpu_core.services.allocations.accounts import reset_keys
from remotegpu_core.services.idempotency import MAX_KEY
from remotegpu_graphql.allocations.types import Allocation
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, encode_id
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.relay import Edge, edge, made_edge
from remotegpu_graphql.ssh_keys.types import SshKey


@strawberry.input(description="A key of yours.")
class AddSshKeyInput:
    name: str = strawberry.field(
        description="What you call it, in printable characters.", metadata=characters(1, 64)
    )
    public_key: str = strawberry.field(
        description="The line of the file that ends in .pub: ed25519, ecdsa, RSA of 2048 bits or "
        "more, or in hardware (sk-). No options, no certificate.",
        metadata=characters(0, 32_768),
    )


@strawberry.type(description="Of addSshKey.")
class AddSshKeyPayload:
    ssh_key: SshKey | None = strawberry.field(default=None, description="The key.")
    ssh_key_edge: Edge[SshKey] | None = made_edge("The key", "viewer.sshKeys")
    warning: str | None = strawberry.field(
        default=None, description="Why the key, which was taken, is better replaced."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="A key to remove.")
class RemoveSshKeyInput:
    id: strawberry.ID = strawberry.field(description="Its id.")


@strawberry.type(description="Of removeSshKey.")
class RemoveSshKeyPayload:
    removed_id: strawberry.ID | None = strawberry.field(
        default=None, description="The id of what is no more."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="An allocation whose keys are to be replaced.")
class ResetSshKeysInput:
    allocation_id: strawberry.ID = strawberry.field(description="Its id; it is ACTIVE.")
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="The same call with the same key, within a day, is done once.",
        metadata=characters(1, MAX_KEY),
    )


@strawberry.type(description="Of resetSshKeys.")
class ResetSshKeysPayload:
    allocation: Allocation | None = strawberry.field(default=None, description="The allocation.")
    operation: Operation | None = strawberry.field(
        default=None, description="Ends when the host has replaced them."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type
class SshKeysMutation:
    @mutation("Add a key of yours. It is on every host that you have something on within seconds.")
    async def add_ssh_key(
        self,
        info: Info,
        input: Annotated[AddSshKeyInput, strawberry.argument(description="The key.")],
    ) -> AddSshKeyPayload | None:
        row = await ssh_keys.add_ssh_key(
            info.context.actor,
            input.name,
            input.public_key,
            rsa_bits=info.context.plane.settings.ssh_rsa_bits,
        )
        await info.context.nudge()
        return AddSshKeyPayload(
            ssh_key=SshKey.of(row),
            ssh_key_edge=edge(row, ssh_keys.NEWEST_FIRST, SshKey.of),
            warning=ssh_keys.warning_of(row),
        )

    @mutation(
        "Remove a key of yours, or as an admin anybody's; from every host, too. A host that is away "
        "follows when it is back. What is signed in stays so."
    )
    async def remove_ssh_key(
        self,
        info: Info,
        input: Annotated[RemoveSshKeyInput, strawberry.argument(description="Which.")],
    ) -> RemoveSshKeyPayload | None:
        row = await ssh_keys.remove_ssh_key(
            info.context.actor, decode_id(input.id, "SshKey", field="id")
        )
        await info.context.nudge()
        return RemoveSshKeyPayload(removed_id=encode_id("SshKey", row.id))

    @mutation(
        "Remove every key of an allocation's account on its host and put its user's there, whatever "
        "was done to them on the host. Its user may, whoever manages allocations in its workspace, "
        "and admins."
    )
    async def reset_ssh_keys(
        self,
        info: Info,
        input: Annotated[ResetSshKeysInput, strawberry.argument(description="Which.")],
    ) -> ResetSshKeysPayload | None:
        allocation, operation = await reset_keys(
            info.context.actor,
            decode_id(input.allocation_id, "Allocation", field="allocationId"),
            key=input.idempotency_key,
        )
        await info.context.nudge()
        return ResetSshKeysPayload(
            allocation=Allocation.of(allocation), operation=Operation.of(operation)
        )

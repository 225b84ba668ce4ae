"""The account that an allocation has on its host, and the keys that sign in to it."""

import base64
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Collection
from typing import Final

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Allocation, Machine, Operation, SshKey
from remotegpu_core.services import audit, commands, idempotency, operations
from remotegpu_core.services.allocations.beneficiary import manageable
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.allocations.reading import lock_allocation
from remotegpu_core.services.idempotency import Made
from remotegpu_core.services.ledger import ledger_of_all
from remotegpu_core.states import AllocationState
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import ACCOUNT_KEYS, AccountKeys

#: The kind of operation, and its step.
RESET_KEYS: Final = "resetSshKeys"
KEYS_STEP: Final = "keys"

#: Milliseconds: however long a host is away and an allocation is extended meanwhile, a key that was
#: removed must not stay. The end of the allocation comes behind it, in order.
KEYS_WITHIN: Final = 10 * 366 * 86_400_000

_HAVING: Final = (AllocationState.PENDING, AllocationState.ACTIVE)


def account_name(allocation_id: uuid.UUID) -> str:
    """`rg-` and 60 bits of a digest: no two allocations ever share one on a host."""
    digest = hashlib.sha256(allocation_id.bytes).digest()
    return "rg-" + base64.b32encode(digest)[:12].decode().lower()


def makes_accounts(machine: Machine) -> bool:
    """Whether the host's policy lets the control plane have accounts on it."""
    policy = machine.host.get("policy") or {}
    return ACCOUNT_KEYS.name in policy.get("commands", [])


async def key_lines(user_id: uuid.UUID) -> list[str]:
    """Lines of a user's keys as `authorized_keys` takes them, oldest first."""
    keys = await SshKey.filter(user_id=user_id).order_by("id")
    return [key.line for key in keys]


@contextlib.asynccontextmanager
async def changing_keys(user_id: uuid.UUID) -> AsyncIterator[None]:
    """A transaction that changes a user's keys: every host that they are on is told in it.

    A key that is removed is removed from every host or from none: a host that is away is told when
    it is back.
    """
    known: set[uuid.UUID] = set()
    while True:
        async with ledger_of_all(known):
            found = await _having(user_id)
            machines = {row.machine_id for row in found if row.machine_id is not None}
            if not machines <= known:
                # Their machines are locked first.
                known |= machines
                continue
            yield
            await _tell(found, await key_lines(user_id))
            return


async def reset_keys(
    actor: Actor, allocation_id: uuid.UUID, *, key: str | None = None
) -> tuple[Allocation, Operation]:
    """Have the host replace whatever keys the allocation's account has by its user's.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs.
        Conflict: it is not active, or its host makes no accounts.
        IdempotencyKeyReused: see `idempotency`.
    """
    call = idempotency.call_of(actor, "resetSshKeys", key, {"id": str(allocation_id)})
    async with lock_allocation(actor, allocation_id, field="allocationId") as (allocation, machine):
        await manageable(actor, allocation, field="allocationId")
        made = await idempotency.recall(call)
        if made is not None:
            return allocation, await Operation.get(id=made.operation_id)
        if allocation.state is not AllocationState.ACTIVE or machine is None:
            raise Conflict(
                f"This allocation is {allocation.state}: keys are on a host while it is ACTIVE.",
                field="allocationId",
            )
        if not makes_accounts(machine):
            raise Conflict(
                f"The policy file of its host does not enable {ACCOUNT_KEYS.name}: there is no "
                "account that keys could sign in to.",
                field="allocationId",
            )
        operation = await operations.begin(
            RESET_KEYS,
            (KEYS_STEP,),
            user_id=allocation.user_id,
            workspace_id=allocation.workspace_id,
            machine_id=machine.id,
            allocation_id=allocation.id,
        )
        await _enqueue(allocation, await key_lines(allocation.user_id), operation.id)
        await audit.record(actor, "resetSshKeys", target=("Allocation", allocation.id))
        await idempotency.remember(call, Made(allocation.id, operation.id))
    return allocation, await Operation.get(id=operation.id)


async def note_keys(allocation: Allocation, error: tuple[str, str] | None) -> None:
    """What its host says of its keys, within a `ledger`. `error`: why they are not its user's, code
    and message."""
    if allocation.state not in _HAVING:
        return
    if error is None and allocation.keys_error_code is None:
        return
    allocation.keys_error_code = error[0] if error else None
    allocation.keys_error_message = clean_text(error[1], 2000) if error else None
    await allocation.save(update_fields=["keys_error_code", "keys_error_message"])
    await record_event(allocation.id, EventKind.KEYS_FAILED if error else EventKind.KEYS_REPLACED)


async def _having(user_id: uuid.UUID) -> list[Allocation]:
    """A user's allocations that their host was told of."""
    rows = Allocation.filter(user_id=user_id, state__in=list(_HAVING), generation__gt=0)
    return await rows.exclude(machine_id=None).select_related("machine").order_by("id")


async def _tell(allocations: Collection[Allocation], keys: list[str]) -> None:
    for allocation in allocations:
        if allocation.machine is not None and makes_accounts(allocation.machine):
            await _enqueue(allocation, keys, None)


async def _enqueue(allocation: Allocation, keys: list[str], operation_id: uuid.UUID | None) -> None:
    assert allocation.machine_id is not None  # noqa: S101 - callers have seen it
    allocation.generation += 1
    await allocation.save(update_fields=["generation"])
    await commands.enqueue(
        ACCOUNT_KEYS,
        AccountKeys(str(allocation.id), account_name(allocation.id), keys),
        machine_id=allocation.machine_id,
        deadline=now_ms() + KEYS_WITHIN,
        allocation_id=allocation.id,
        generation=allocation.generation,
        operation_id=operation_id,
    )

"""Accounts on hosts, and the keys that sign in to them."""

import asyncio
import time

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, NotFound
from remotegpu_core.ids import new_id
from remotegpu_core.models import Allocation, AllocationEvent, Command, Operation
from remotegpu_core.services.allocations.accounts import account_name, reset_keys
from remotegpu_core.services.ssh_keys import add_ssh_key, remove_ssh_key
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState, OperationState
from remotegpu_protocol.grammar import ACCOUNT_NAME
from remotegpu_protocol.inventory import Policy
from tests.core.people import make_admin, make_tenant
from tests.core.services.allocations.hosts import active, answer, carry_out, get, make_host, waiting
from tests.core.services.test_ssh_keys import make_line

pytestmark = pytest.mark.usefixtures("database")

KINDS = ["allocation.start", "allocation.update", "allocation.end"]
ACCOUNTS = Policy(commands=[*KINDS, "account.keys"], simulated=True)


async def keys_of(command: Command) -> list[str]:
    return list(command.arguments["keys"])


def test_names_are_an_accounts_and_differ() -> None:
    names = {account_name(new_id()) for _ in range(1000)}
    assert len(names) == 1000
    assert all(ACCOUNT_NAME.fullmatch(name) for name in names)


async def test_keys_come_with_the_start_and_follow_every_change(settings: Settings) -> None:
    alice, bob = await make_tenant(), await make_tenant()
    line, other = make_line(), make_line()
    key = await add_ssh_key(alice, "laptop", f"{line} ada@lab")
    await add_ssh_key(bob, "laptop", make_line())
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice, bob])
    old = await make_host("node-2", grant=[alice])
    allocation = await get(alice, settings, host, gpu_ids=host.gpu(0))
    plain = await get(alice, settings, old)
    theirs = await get(bob, settings, host, gpu_ids=host.gpu(1))
    (start,) = await waiting(allocation)
    assert start.arguments["account"] == account_name(allocation.id)
    assert await keys_of(start) == [line]
    # A host that makes no accounts, or whose agent is older, is told of none.
    (plain_start,) = await waiting(plain)
    assert "account" not in plain_start.arguments
    assert "keys" not in plain_start.arguments

    # Not active yet, and told in order all the same.
    await add_ssh_key(alice, "desk", other)
    await remove_ssh_key(alice, key.id)
    _, added, removed = await waiting(allocation)
    assert (added.kind, await keys_of(added)) == ("account.keys", [line, other])
    assert await keys_of(removed) == [other]
    assert start.generation < added.generation < removed.generation
    assert len(await waiting(plain)) == 1
    assert len(await waiting(theirs)) == 1
    assert (await carry_out(allocation)).state is AllocationState.ACTIVE

    # Neither what is refused nor what is over tells anybody anything.
    with pytest.raises(Conflict):
        await add_ssh_key(alice, "again", other)
    assert await waiting(allocation) == []
    await Allocation.filter(id=allocation.id).update(state=AllocationState.RECLAIMING)
    await add_ssh_key(alice, "new", make_line())
    assert await waiting(allocation) == []


async def test_a_change_reaches_fifty_hosts_at_once(settings: Settings) -> None:
    alice = await make_tenant()
    admin = await make_admin()
    for number in range(50):
        host = await make_host(f"node-{number}", policy=ACCOUNTS)
        await get(admin, settings, host, user_id=alice.user_id)
    started = time.monotonic()
    key = await add_ssh_key(alice, "laptop", make_line())
    assert time.monotonic() - started < 2
    assert await Command.filter(kind="account.keys").count() == 50
    await asyncio.gather(remove_ssh_key(alice, key.id), add_ssh_key(alice, "b", make_line()))
    assert await Command.filter(kind="account.keys").count() == 150


async def test_resetting_is_an_operation_of_the_host(settings: Settings) -> None:
    alice, bob = await make_tenant(), await make_tenant()
    line = make_line()
    await add_ssh_key(alice, "laptop", line)
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice])
    allocation = await active(alice, settings, host)
    _, operation = await reset_keys(alice, allocation.id, key="once")
    _, again = await reset_keys(alice, allocation.id, key="once")
    assert operation.id == again.id
    (command,) = await waiting(allocation)
    assert await keys_of(command) == [line]
    await answer(command)
    assert (await Operation.get(id=operation.id)).state is OperationState.SUCCEEDED

    _, operation = await reset_keys(alice, allocation.id)
    await answer((await waiting(allocation))[0], CommandState.FAILED)
    failed = await Operation.get(id=operation.id)
    assert (failed.state, failed.error_code) == (OperationState.FAILED, "TRIED")
    assert await keys_error(allocation) == "TRIED"
    assert (await Allocation.get(id=allocation.id)).state is AllocationState.ACTIVE
    with pytest.raises(NotFound):
        await reset_keys(bob, allocation.id)


async def keys_error(allocation: Allocation) -> str | None:
    return (await Allocation.get(id=allocation.id)).keys_error_code


async def test_keys_that_a_host_has_not_are_told(settings: Settings, alice: Actor) -> None:
    """Of a change that nobody waits for, the allocation says that it failed, until one does not."""
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice])
    allocation = await active(alice, settings, host)
    await add_ssh_key(alice, "laptop", make_line())
    (command,) = await waiting(allocation)
    # Longer than the allocation, which may be extended while its host is away.
    assert command.deadline > allocation.ends_at
    await answer(command, CommandState.FAILED)
    told = await Allocation.get(id=allocation.id)
    assert (told.keys_error_code, told.keys_error_message) == ("TRIED", "it did not work")
    assert told.state is AllocationState.ACTIVE
    await reset_keys(alice, allocation.id)
    await answer((await waiting(allocation))[0])
    assert await keys_error(allocation) is None
    await add_ssh_key(alice, "desk", make_line())
    await answer((await waiting(allocation))[0])
    kinds = await AllocationEvent.filter(allocation_id=allocation.id).order_by("sequence")
    assert [row.kind for row in kinds][-2:] == ["KEYS_FAILED", "KEYS_REPLACED"]


async def test_resetting_needs_an_account(settings: Settings, alice: Actor) -> None:
    host = await make_host("node-1", grant=[alice])
    allocation = await get(alice, settings, host)
    with pytest.raises(Conflict, match="PENDING"):
        await reset_keys(alice, allocation.id)
    await carry_out(allocation)
    with pytest.raises(Conflict, match="policy file") as refused:
        await reset_keys(alice, allocation.id)
    assert refused.value.field == ["allocationId"]
    assert await waiting(allocation) == []


@pytest.fixture
async def alice() -> Actor:
    return await make_tenant()

"""Calls that are made again."""

import asyncio

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import IdempotencyKeyReused, InvalidInput, NoCapacity
from remotegpu_core.models import Allocation, IdempotencyKey
from remotegpu_core.services import idempotency
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.release import release
from remotegpu_core.settings import Settings
from tests.core.people import make_tenant
from tests.core.services.allocations.hosts import any_gpus, asking, carry_out, make_host

pytestmark = pytest.mark.usefixtures("database")


async def test_the_same_call_gives_the_same_objects(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    await make_host("one", 4, grant=[ada, bob])
    request = asking(requirement=any_gpus(1))
    first, operation = await allocate(ada, settings, request, key="k")
    await carry_out(first)
    again, same = await allocate(ada, settings, request, key="k")
    # In their current state.
    assert (again.id, again.state, same.id, same.state) == (
        first.id,
        "ACTIVE",
        operation.id,
        "SUCCEEDED",
    )
    with pytest.raises(IdempotencyKeyReused) as refused:
        await allocate(ada, settings, asking(requirement=any_gpus(2)), key="k")
    assert refused.value.field == ["idempotencyKey"]
    # Another's key is another's, and another mutation's is too.
    assert (await allocate(bob, settings, request, key="k"))[0].id != first.id
    _, released = await release(ada, first.id, key="k")
    assert (await release(ada, first.id, key="k"))[1].id == released.id
    await carry_out(first)
    # Also when it is long over.
    assert (await release(ada, first.id, key="k"))[1].id == released.id
    assert await Allocation.all().count() == 2


async def test_at_once_it_is_one(settings: Settings) -> None:
    ada = await make_tenant()
    await make_host("one", 8, grant=[ada])
    request = asking(requirement=any_gpus(1))
    made = await asyncio.gather(*(allocate(ada, settings, request, key="k") for _ in range(20)))
    assert len({allocation.id for allocation, _ in made}) == 1
    assert await Allocation.all().count() == 1


async def test_what_failed_may_be_tried_again(settings: Settings, admin: Actor) -> None:
    request = asking(requirement=any_gpus(1))
    with pytest.raises(NoCapacity):
        await allocate(admin, settings, request, key="k")
    await make_host("one", 1)
    await allocate(admin, settings, request, key="k")


async def test_after_a_day_a_key_is_new(settings: Settings, admin: Actor) -> None:
    await make_host("one", 4)
    first, _ = await allocate(admin, settings, asking(requirement=any_gpus(1)), key="k")
    await IdempotencyKey.all().update(created_at=first.created_at - idempotency.LIFETIME)
    second, _ = await allocate(admin, settings, asking(requirement=any_gpus(2)), key="k")
    assert second.id != first.id
    await IdempotencyKey.all().update(created_at=first.created_at - idempotency.LIFETIME)
    assert await idempotency.prune() == 1


@pytest.mark.parametrize("key", ["", "x" * 129, "\x00"])
async def test_keys_that_are_none(sqlite_settings: Settings, admin: Actor, key: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await allocate(admin, sqlite_settings, asking(requirement=any_gpus(1)), key=key)
    assert refused.value.field == ["idempotencyKey"]

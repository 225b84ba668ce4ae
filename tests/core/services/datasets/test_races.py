"""Who mounts while somebody takes the dataset, the access or the machine away: one of them first."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from remotegpu_core.errors import Conflict, NotFound, RemoteGPUError
from remotegpu_core.models import Command, Dataset, Mount, Operation
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.datasets.access import baseless_mounts
from remotegpu_core.services.datasets.ending import LIVE
from remotegpu_core.services.datasets.granting import grant_dataset, revoke_dataset_grant
from remotegpu_core.services.datasets.mounting import unmount_dataset
from remotegpu_core.services.datasets.registry import remove_dataset
from remotegpu_core.services.datasets.revoking import end_baseless
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, DatasetAccess, MountState
from tests.core.people import make_tenant
from tests.core.services.allocations.hosts import active, carry_out
from tests.core.services.datasets.places import make_dataset, mount, mounted, mounting_host

pytestmark = pytest.mark.usefixtures("database")

ROUNDS = 4


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """What came of each; only what a user can be told may go wrong."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, RemoteGPUError):
            raise each
    return found


async def test_mounting_and_revoking(settings: Settings) -> None:
    ada, bob = await make_tenant(), await make_tenant()
    hosts = [await mounting_host(f"node-{number}", grant=[bob]) for number in range(2)]
    allocations = [await active(bob, settings, host) for host in hosts]
    dataset = await make_dataset(settings, ada)
    for number in range(ROUNDS):
        await grant_dataset(ada, dataset.id, DatasetAccess.READ, user_id=bob.user_id)
        *mounts, revoked = await together(
            *(mount(bob, dataset, allocation, f"/data/{number}") for allocation in allocations),
            revoke_dataset_grant(ada, dataset.id, user_id=bob.user_id),
        )
        assert not isinstance(revoked, BaseException)
        for each in mounts:
            assert isinstance(each, tuple | NotFound), each
        # Whoever was first, nothing rests on what is gone.
        assert await baseless_mounts() == []
        for allocation in allocations:
            await carry_out(allocation)
        assert not await Mount.filter(state__in=list(LIVE)).exists()
    assert not await Operation.filter(finished_at=None).exists()


async def test_mounting_and_removing(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    allocation = await active(ada, settings, host)
    for number in range(ROUNDS):
        dataset = await make_dataset(settings, ada)
        made, removed = await together(
            mount(ada, dataset, allocation, f"/data/{number}"), remove_dataset(ada, dataset.id)
        )
        there = await Dataset.exists(id=dataset.id)
        assert isinstance(removed, Conflict) == there
        assert isinstance(made, tuple) == there
        assert await Mount.filter(dataset_id=dataset.id).exists() == there


async def test_mounting_and_giving_back(settings: Settings) -> None:
    ada = await make_tenant()
    host = await mounting_host("node-1", grant=[ada])
    dataset = await make_dataset(settings, ada)
    for number in range(ROUNDS):
        allocation = await active(ada, settings, host)
        before = await mounted(ada, dataset, allocation, f"/data/{number}")
        *_, released = await together(
            mount(ada, dataset, allocation, f"/data/{number}-more"),
            unmount_dataset(ada, before.id),
            end_baseless(),
            release(ada, allocation.id),
        )
        assert not isinstance(released, BaseException)
        # What a host is told after the end would find nobody: the end is the last that it hears.
        last = await Command.filter(allocation_id=allocation.id).order_by("-sequence").first()
        assert last is not None
        assert last.kind == "allocation.end"
        assert last.generation == max(
            command.generation for command in await Command.filter(allocation_id=allocation.id)
        )
        assert (await carry_out(allocation)).state is AllocationState.RELEASED
        states = {row.state for row in await Mount.filter(allocation_id=allocation.id)}
        assert states == {MountState.UNMOUNTED}
    assert not await Operation.filter(finished_at=None).exists()

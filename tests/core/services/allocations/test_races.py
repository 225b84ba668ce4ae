"""Many at once, and several processes."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE

import pytest

from remotegpu_core.actor import Actor, Role
from remotegpu_core.errors import Conflict, Forbidden, NoCapacity
from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    Booking,
    Command,
    Operation,
    WorkspaceRole,
)
from remotegpu_core.services import maintenance
from remotegpu_core.services.allocations.duty import expire_due, place_queue, start_due
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.grants import grant_machine
from remotegpu_core.services.quotas import Limits, set_quota
from remotegpu_core.services.users import disable_user, enable_user
from remotegpu_core.services.workspaces import create_workspace, set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState
from tests.core.people import HOUR, make_user
from tests.core.services.allocations.hosts import (
    Host,
    active,
    any_gpus,
    carry_out,
    get,
    make_host,
    open_occupancies,
    report,
    shift,
)

pytestmark = pytest.mark.usefixtures("database")

#: Ends what is due, in another process, as soon as it is told.
EXPIRE = """
import asyncio, sys
from remotegpu_core.database.connection import Database
from remotegpu_core.services.allocations.duty import expire_due
from remotegpu_core.settings import load_settings

async def main():
    database = Database(load_settings())
    await database.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(sum([await expire_due() for _ in range(5)]), flush=True)
    await database.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("by_name", [True, False])
async def test_two_hundred_ask_for_the_last_gpu(
    settings: Settings, admin: Actor, by_name: bool
) -> None:
    host = await make_host("one", 2)
    await get(admin, settings, host, gpu_ids=host.gpu(0))

    async def ask() -> Allocation:
        if by_name:
            return await get(admin, settings, host, gpu_ids=host.gpu(1))
        return await get(admin, settings, requirement=any_gpus(1))

    results = await asyncio.gather(*(ask() for _ in range(200)), return_exceptions=True)
    assert sum(isinstance(result, Allocation) for result in results) == 1
    refusals = [result for result in results if isinstance(result, NoCapacity)]
    assert len(refusals) == 199
    assert {refusal.code for refusal in refusals} == {"NO_CAPACITY"}
    assert await Booking.all().count() == len(await open_occupancies(host)) == 2
    assert await Command.all().count() == 2


async def test_those_who_would_wait_get_places_once(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 4)
    holder = await active(admin, settings, host)
    queued = await asyncio.gather(
        *(get(admin, settings, requirement=any_gpus(1), wait=True) for _ in range(10))
    )
    assert {row.machine_id for row in queued} == {None}
    queued = sorted(queued, key=lambda row: (row.created_at, row.id))
    await release(admin, holder.id)
    await carry_out(holder)
    # As several replicas would.
    placed = await asyncio.gather(*(place_queue() for _ in range(4)))
    while await place_queue():
        pass
    first = await Allocation.filter(id__in=[row.id for row in queued], machine_id=host.id)
    assert {row.id for row in first} == {row.id for row in queued[:4]}
    assert sum(placed) <= 4
    assert len(await open_occupancies(host)) == 4


async def test_replicas_expire_once(settings: Settings, admin: Actor) -> None:
    """Three processes, of which this is one, and several rounds at a time in each."""
    rows = []
    for number in range(5):
        host = await make_host(f"host-{number}", 1)
        rows.append(await active(admin, settings, host))
        await shift(rows[-1], HOUR)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("REMOTEGPU_")},
        "REMOTEGPU_DATA_DIR": str(settings.data_dir),
    }
    if settings.database_url is not None:
        environment["REMOTEGPU_DATABASE_URL"] = settings.database_url
    others = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", EXPIRE), stdin=PIPE, stdout=PIPE, env=environment
        )
        for _ in range(2)
    ]
    try:
        async with asyncio.timeout(60):
            for other in others:
                assert other.stdout is not None
                assert await other.stdout.readline() == b"ready\n"
            told = asyncio.gather(*(other.communicate(b"go\n") for other in others))
            own = await asyncio.gather(*(expire_due() for _ in range(4)))
            outputs = [output for output, _ in await told]
    finally:
        for other in others:
            if other.returncode is None:
                other.kill()
                await other.wait()
    assert sum(own) + sum(int(output) for output in outputs) == 5
    for row in rows:
        assert (await Allocation.get(id=row.id)).state is AllocationState.RECLAIMING
        assert await Command.filter(allocation_id=row.id, kind="allocation.end").count() == 1
        assert await Operation.filter(allocation_id=row.id, kind="release").count() == 1
        ends = AllocationEvent.filter(allocation_id=row.id, kind="RECLAIMING")
        assert await ends.count() == 1


async def test_released_and_expired_and_extended_at_once(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    for _ in range(4):
        allocation = await active(admin, settings, host)
        await shift(allocation, HOUR - 100)
        await asyncio.sleep(0.1)
        results = await asyncio.gather(
            *(release(admin, allocation.id) for _ in range(3)),
            *(expire_due() for _ in range(3)),
            *(extend(admin, settings, allocation.id, allocation.ends_at + HOUR) for _ in range(3)),
            return_exceptions=True,
        )
        for result in results:
            assert not isinstance(result, BaseException) or isinstance(result, Conflict), result
        assert await Command.filter(allocation_id=allocation.id, kind="allocation.end").count() == 1
        assert (await carry_out(allocation)).state is AllocationState.RELEASED


async def test_a_reservation_starts_once(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    first = await active(admin, settings, host)
    reserved = await get(admin, settings, host, starts_at=first.ends_at)
    await shift(first, HOUR)
    await shift(reserved, HOUR)
    await expire_due()
    await carry_out(first)
    assert sum(await asyncio.gather(*(start_due() for _ in range(6)))) == 1
    assert await Command.filter(allocation_id=reserved.id).count() == 1


async def test_nobody_waits_for_one_another(settings: Settings, admin: Actor) -> None:
    """What locks rows and counters, all of it at once: PostgreSQL would end a deadlock."""
    hosts = [await make_host(f"host-{number}", 2) for number in range(3)]
    lab = await create_workspace(admin, "lab")
    people = [await make_user(role=Role.ADMIN if number else Role.USER) for number in range(4)]

    async def allocates(number: int) -> None:
        for _ in range(4):
            with contextlib.suppress(NoCapacity):
                row = await get(
                    admin,
                    settings,
                    requirement=any_gpus(1),
                    user_id=people[number % 4].id,
                    workspace_id=lab.id,
                )
                await carry_out(row)
                await release(admin, row.id)
                await carry_out(row)

    async def reports(host: Host) -> None:
        for count in (3, 2, 3, 2, 3, 2):
            await report(host, count)

    async def administers(number: int) -> None:
        user = people[number]
        for _ in range(4):
            await set_member(admin, lab.id, user.id, WorkspaceRole.MEMBER)
            await disable_user(admin, user.id)
            await enable_user(admin, user.id)
            await set_quota(admin, Limits(50), user_id=user.id, workspace_id=None)
            for host in hosts:
                await grant_machine(admin, host.id, user_id=user.id, workspace_id=None)
                await maintenance.set_draining(admin, host.id, False)

    for user in people:
        await set_member(admin, lab.id, user.id, WorkspaceRole.MEMBER)
    results = await asyncio.gather(
        *(allocates(number) for number in range(4)),
        *(reports(host) for host in hosts),
        *(administers(number) for number in range(4)),
        *(place_queue() for _ in range(3)),
        return_exceptions=True,
    )
    # Somebody who is disabled at that very moment is given nothing.
    assert [
        r for r in results if isinstance(r, BaseException) and not isinstance(r, Forbidden)
    ] == []

"""After a clock that was a day ahead was put right: what it wrote is not believed."""

import uuid

import pytest

from remotegpu_core.clock import TOLERANCE, now_ms
from remotegpu_core.errors import LockedOut
from remotegpu_core.models import Freeze, Lease, Machine, Replica, SignInFailure
from remotegpu_core.services import freeze, leases, lockout, presence, stamps
from remotegpu_core.states import Presence
from tests.core.hosts import REPLICA, make_online
from tests.core.people import HOUR

pytestmark = pytest.mark.usefixtures("database")

DAY = 24 * HOUR


async def test_a_host_that_died_is_not_online_until_tomorrow() -> None:
    machine, epoch = await make_online()
    tomorrow = now_ms() + DAY
    await Machine.filter(id=machine.id).update(last_seen_at=tomorrow)
    await presence.beat(REPLICA, tomorrow)
    await Replica.all().update(heartbeat_at=tomorrow)
    # The replica that wrote it is dead, whatever its row says.
    assert await presence.release_orphans(not_before=0) == 1
    assert (await Machine.get()).presence is Presence.UNREACHABLE
    assert await stamps.put_right() == 2
    assert await stamps.put_right() == 0
    seen_at = (await Machine.get()).last_seen_at
    assert seen_at is not None
    assert now_ms() - 5000 < seen_at <= now_ms()
    # What is heard from now on counts again.
    await presence.note_seen({machine.id: (epoch, seen_at + 1)})
    assert (await Machine.get()).last_seen_at == seen_at + 1


async def test_small_differences_of_replicas_are_left_alone() -> None:
    machine, _ = await make_online()
    ahead = now_ms() + TOLERANCE // 2
    await Machine.filter(id=machine.id).update(last_seen_at=ahead)
    assert await stamps.put_right() == 0
    assert (await Machine.get()).last_seen_at == ahead


async def test_a_freeze_lasts_no_longer_than_its_causes() -> None:
    assert await freeze.note_start(uuid.uuid4())
    assert await freeze.is_frozen()
    await Freeze.all().update(until=now_ms() + DAY)
    assert not await freeze.is_frozen()
    # One that came after is still told apart from it.
    assert await freeze.note_start(uuid.uuid4())
    assert await freeze.is_frozen()


async def test_a_lock_lasts_no_longer_than_a_lock() -> None:
    for _ in range(lockout.PAIR_LIMIT):
        await lockout.count(lockout.by_stranger("alice", "192.0.2.1"))
    await SignInFailure.all().update(last_at=now_ms() + DAY)
    with pytest.raises(LockedOut, match="in 15 minutes"):
        await lockout.count(lockout.by_stranger("alice", "192.0.2.1"))
    await stamps.put_right()
    assert all(row.last_at <= now_ms() for row in await SignInFailure.all())


async def test_a_duty_is_taken_from_an_owner_of_tomorrow() -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    assert await leases.hold("sweep", one) == 1
    await Lease.all().update(until=now_ms() + DAY)
    assert await leases.hold("sweep", two) == 2

"""When a process doubts its clock, and what that stops."""

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import CLOCK, now_ms
from remotegpu_core.models import Allocation, ClockStamp, Freeze, FreezeCause
from remotegpu_core.services import freeze
from remotegpu_core.services.allocations import duty
from remotegpu_core.services.clock_watch import (
    HOSTS,
    MAX_ABSENCE,
    MAX_BEHIND,
    SKEW,
    ClockWatch,
    common_skew,
)
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState
from tests.core.clocks import WoundClock
from tests.core.people import HOUR
from tests.core.services.allocations.hosts import active, any_gpus, get, make_host, shift

pytestmark = pytest.mark.usefixtures("database")

DAY = 24 * HOUR


@pytest.fixture
def clock() -> WoundClock:
    return WoundClock(now_ms())


async def started(clock: WoundClock) -> ClockWatch:
    watch = ClockWatch(clock)
    await watch.start()
    return watch


async def reason() -> str | None:
    held = await freeze.current()
    if held is None:
        return None
    assert held.cause is FreezeCause.CLOCK
    return held.reason


@pytest.mark.parametrize("leap", [DAY, -DAY])
async def test_a_leap_freezes_until_the_clock_comes_back(clock: WoundClock, leap: int) -> None:
    watch = await started(clock)
    await watch.look(())
    assert await reason() is None
    clock.wall_now += leap
    await watch.look(())
    said = await reason()
    assert said is not None
    assert f"leapt by 24 h 0 min 0 s {'forward' if leap > 0 else 'back'}" in said
    assert "endFreeze" in said
    # For as long as it is wrong, however long the freeze of another cause would last.
    await Freeze.all().update(until=now_ms() + 1000)
    await watch.look(())
    assert (await Freeze.get()).until > now_ms() + freeze.QUIET // 2
    clock.wall_now -= leap
    await watch.look(())
    assert await reason() is None
    assert not watch.doubted


async def test_an_admin_confirms_it(clock: WoundClock, admin: Actor) -> None:
    watch = await started(clock)
    await watch.keep()
    clock.wall_now -= DAY
    await watch.look(())
    await watch.keep()
    # What the doubted clock says is not what the next start compares with.
    assert (await ClockStamp.get()).at == clock.wall_now + DAY
    await freeze.end(admin)
    await watch.look(())
    assert not watch.doubted
    assert clock.now() == clock.wall_now
    assert (await ClockStamp.get()).at == clock.wall_now
    await watch.look(())
    assert await reason() is None


@pytest.mark.parametrize("gap", [DAY, -DAY, MAX_ABSENCE + 1000, -MAX_BEHIND - 9000])
async def test_a_start_far_from_the_newest_stamp(clock: WoundClock, gap: int) -> None:
    await ClockStamp.create(id=1, at=clock.wall_now - gap)
    watch = await started(clock)
    said = await reason()
    assert said is not None
    assert f"{'ahead of' if gap > 0 else 'behind'} the newest moment" in said
    await watch.keep()
    assert (await ClockStamp.get()).at == clock.wall_now - gap
    # Started again it is no nearer.
    await Freeze.all().delete()
    clock.pass_by(1000)
    watch = await started(clock)
    assert await reason() is not None
    clock.pass_by(HOUR)
    await watch.look(())
    assert watch.doubted
    # Somebody sets it.
    clock.wall_now -= gap
    await watch.look(())
    assert await reason() is None
    assert clock.now() == clock.wall_now


@pytest.mark.parametrize("gap", [0, MAX_ABSENCE - 1000, -MAX_BEHIND + 1000])
async def test_a_usual_start(clock: WoundClock, gap: int) -> None:
    await ClockStamp.create(id=1, at=clock.wall_now - gap)
    watch = await started(clock)
    assert await reason() is None
    await watch.keep()
    assert (await ClockStamp.get()).at == max(clock.wall_now, clock.wall_now - gap)


async def test_what_most_hosts_say(clock: WoundClock, admin: Actor) -> None:
    assert common_skew([DAY] * (HOSTS - 1)) == 0
    assert common_skew([DAY, DAY, DAY, 0, 0, 0]) == 0
    assert common_skew([DAY, 2 * DAY, 3 * DAY]) == 0
    assert common_skew([SKEW // 2] * 3) == SKEW // 2
    watch = await started(clock)
    ours = DAY
    await watch.look([ours, 3, ours + 90, ours + 190])
    said = await reason()
    assert said is not None
    assert "24 h 0 min 0 s ahead of that of most hosts" in said
    # Hosts that are wrong each in its own way say nothing of us.
    await watch.look([ours, 2 * ours, 0])
    assert not watch.doubted
    await watch.look([2, 3, 4, 5])
    assert await reason() is None
    await watch.look([-ours] * 3)
    assert await reason() is not None
    await freeze.end(admin)
    for _ in range(2):
        await watch.look([-ours] * 3)
        assert not watch.doubted
    # Another one than the one that was confirmed.
    await watch.look([ours] * 3)
    assert watch.doubted


async def test_an_allocation_outlives_a_leap(
    settings: Settings, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, before anybody has looked at the clock."""
    allocation = await active(admin, settings, await make_host("one"), length=8 * HOUR)
    monkeypatch.setattr(CLOCK, "wall", lambda: type(CLOCK).wall() + DAY)
    assert await duty.expire_due() == 0
    assert (await Allocation.get(id=allocation.id)).state is AllocationState.ACTIVE


async def test_nothing_starts_or_ends_by_a_doubted_clock(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    allocation = await active(admin, settings, host)
    reserved = await get(admin, settings, host, starts_at=allocation.ends_at)
    unplaced = await get(admin, settings, requirement=any_gpus(9), wait=True)
    begun = await freeze.begin_for_clock("The clock leapt.")
    for row in (allocation, reserved, unplaced):
        await shift(row, 3 * HOUR)
    before = await Allocation.all().order_by("id").values()
    assert await duty.expire_due() == 0
    assert await duty.start_due() == 0
    assert await duty.place_queue() == 0
    assert await duty.warn_due([86_400]) == 0
    assert await Allocation.all().order_by("id").values() == before
    await freeze.thaw(begun)
    assert await duty.expire_due() == 3
    assert not await freeze.is_frozen()
    with pytest.raises(Exception, match="Nothing is frozen"):
        await freeze.end(SYSTEM)

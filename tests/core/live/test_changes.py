import asyncio
import uuid
from collections.abc import AsyncIterator, Collection

import pytest

from remotegpu_core.bus.bus import Bus
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import CursorExpired
from remotegpu_core.live import changes as module
from remotegpu_core.live.changes import ChangeFeed
from remotegpu_core.models import MachineChange
from remotegpu_core.services import logs as log
from remotegpu_core.services.changes import MACHINE_LOG, ChangeKind, record_change
from remotegpu_core.services.logs import ChangeLog
from remotegpu_core.versions import VersionWatch

MACHINE = uuid.UUID(int=1)


@pytest.fixture
async def local() -> AsyncIterator[Bus]:
    bus = Bus(None)
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture
async def feed(database: object, local: Bus) -> AsyncIterator[ChangeFeed[MachineChange]]:
    watch = VersionWatch(local)
    started = ChangeFeed(MACHINE_LOG, watch)
    await watch.start()
    yield started
    await watch.stop()


async def happen(times: int = 1) -> None:
    for _ in range(times):
        async with transaction():
            await record_change(MACHINE, ChangeKind.HEALTH_CHANGED)


async def take(following: AsyncIterator[MachineChange], count: int) -> list[int]:
    async with asyncio.timeout(20):
        return [(await anext(following)).sequence for _ in range(count)]


async def test_what_was_and_what_comes(feed: ChangeFeed[MachineChange], local: Bus) -> None:
    await happen(3)
    following = feed.follow(1)
    assert await take(following, 2) == [2, 3]
    coming = asyncio.create_task(take(following, 2))
    await happen(2)
    await local.nudge("changes")
    assert await coming == [4, 5]


async def test_without_a_nudge_it_takes_a_second(feed: ChangeFeed[MachineChange]) -> None:
    following = feed.follow(0)
    coming = asyncio.create_task(take(following, 1))
    await asyncio.sleep(0.05)
    await happen()
    assert await coming == [1]


async def test_nothing_is_missed_or_doubled_while_writers_race(
    feed: ChangeFeed[MachineChange], local: Bus
) -> None:
    writers, each = 5, 12
    total = writers * each

    async def write() -> None:
        for _ in range(each):
            await happen()
            await local.nudge("changes")

    async def follow(pause: float, start: asyncio.Event) -> list[int]:
        await start.wait()
        after = await MACHINE_LOG.current()
        seen = [after]
        if after == total:
            # On a busy machine the last one may come when all is over.
            return seen
        async for change in feed.follow(after):
            seen.append(change.sequence)
            await asyncio.sleep(pause)
            if change.sequence == total:
                break
        return seen

    starts = [asyncio.Event() for _ in range(6)]
    followers = [
        asyncio.create_task(follow(pause, start))
        for pause, start in zip((0, 0, 0.001, 0.005, 0, 0.01), starts, strict=True)
    ]

    async def start_them() -> None:
        # Some before the first change, some in the middle.
        for start in starts:
            start.set()
            await asyncio.sleep(0.02)

    await asyncio.gather(start_them(), *(write() for _ in range(writers)))
    async with asyncio.timeout(20):
        for seen in await asyncio.gather(*followers):
            assert seen == list(range(seen[0], total + 1))


@pytest.mark.parametrize("recent", [1, 3, 1000])
async def test_one_that_fell_behind_reads_the_log_itself(
    feed: ChangeFeed[MachineChange], local: Bus, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(feed, "_recent", type(feed._recent)(maxlen=recent))
    following = feed.follow(0)
    await happen(2)
    await local.nudge("changes")
    assert await take(following, 1) == [1]
    await happen(10)
    await local.nudge("changes")
    await asyncio.sleep(0.05)
    assert await take(following, 11) == list(range(2, 13))


async def test_more_than_a_batch_that_was_there_before(
    feed: ChangeFeed[MachineChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "BATCH", 4)
    monkeypatch.setattr(module, "BATCH", 4)
    await happen(10)
    # Nothing moves any more, so nothing but the log itself says that there is more.
    await asyncio.sleep(0)
    assert await take(feed.follow(0), 10) == list(range(1, 11))


async def test_one_that_was_overtaken_by_pruning_is_told(
    feed: ChangeFeed[MachineChange], local: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_recent", type(feed._recent)(maxlen=1))
    following = feed.follow(0)
    await happen(2)
    await local.nudge("changes")
    assert await take(following, 1) == [1]
    await happen(10)
    monkeypatch.setattr(log, "KEPT", 3)
    await MACHINE_LOG.prune()
    await local.nudge("changes")
    await asyncio.sleep(0.05)
    assert await take(following, 1) == [2]
    with pytest.raises(CursorExpired):
        await take(following, 1)


async def test_many_followers_cost_one_reading(
    feed: ChangeFeed[MachineChange], local: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await happen()
    following = [feed.follow(0) for _ in range(20)]
    coming = [asyncio.create_task(take(one, 3)) for one in following]
    await asyncio.sleep(0.05)
    readings = 0
    after = ChangeLog.after

    async def counting(self: ChangeLog[MachineChange], sequence: int) -> list[MachineChange]:
        nonlocal readings
        readings += 1
        return await after(self, sequence)

    monkeypatch.setattr(ChangeLog, "after", counting)
    await happen(2)
    await local.nudge("changes")
    assert await asyncio.gather(*coming) == [[1, 2, 3]] * 20
    # The feed's own, once or twice; the first look of the feed may begin in the middle.
    assert readings <= 22
    readings = 0
    coming = [asyncio.create_task(take(one, 2)) for one in following]
    await happen(2)
    await local.nudge("changes")
    assert await asyncio.gather(*coming) == [[4, 5]] * 20
    assert readings <= 3


async def test_what_is_visible_is_asked_for_many_changes_at_once(
    feed: ChangeFeed[MachineChange],
) -> None:
    await happen(40)
    asked: list[Collection[uuid.UUID]] = []

    async def visible(ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
        asked.append(ids)
        return ids

    assert await take(feed.follow_visible(0, visible), 40) == list(range(1, 41))
    assert asked == [{MACHINE}]


async def test_what_is_not_visible_any_more_is_not_shown(
    feed: ChangeFeed[MachineChange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FRESH", -1.0)
    await happen(3)
    answers = iter([{MACHINE}, {MACHINE}, set[uuid.UUID](), {MACHINE}])

    async def visible(_ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
        return next(answers)

    assert await take(feed.follow_visible(0, visible), 2) == [1, 3]

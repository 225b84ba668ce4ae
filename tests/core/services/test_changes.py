import asyncio
import uuid

import pytest

from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import CursorExpired, InvalidInput
from remotegpu_core.models import MachineChange
from remotegpu_core.services import logs
from remotegpu_core.services.changes import MACHINE_LOG, ChangeKind, record_change

pytestmark = pytest.mark.usefixtures("database")

MACHINE = uuid.UUID(int=1)


async def happen(times: int = 1) -> None:
    for _ in range(times):
        async with transaction():
            await record_change(MACHINE, ChangeKind.HEALTH_CHANGED)


async def test_changes_are_numbered_from_one() -> None:
    assert await MACHINE_LOG.current() == 0
    assert await MACHINE_LOG.after(0) == []
    await happen(3)
    assert await MACHINE_LOG.current() == 3
    assert [change.sequence for change in await MACHINE_LOG.after(1)] == [2, 3]
    first = (await MACHINE_LOG.after(0))[0]
    assert (first.machine_id, first.kind) == (MACHINE, "HEALTH_CHANGED")


async def test_a_change_that_was_rolled_back_leaves_no_gap() -> None:
    await happen()

    async def fail() -> None:
        async with transaction():
            await record_change(MACHINE, ChangeKind.HEALTH_CHANGED)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    await happen()
    assert [change.sequence for change in await MACHINE_LOG.after(0)] == [1, 2]


async def test_the_order_of_sequences_is_the_order_of_commits() -> None:
    """A reader that has seen a number never sees a lower one appear later."""
    done = False

    async def write() -> None:
        for _ in range(15):
            async with transaction():
                await record_change(MACHINE, ChangeKind.HEALTH_CHANGED)
                await asyncio.sleep(0)

    async def read() -> list[int]:
        seen: list[int] = []
        while not done or (seen and seen[-1] < await MACHINE_LOG.current()):
            seen += [change.sequence for change in await MACHINE_LOG.after(seen[-1] if seen else 0)]
            await asyncio.sleep(0)
        return seen

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write() for _ in range(6)))
    done = True
    assert await reading == list(range(1, 91))


async def test_reading_comes_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BATCH", 3)
    await happen(5)
    assert [change.sequence for change in await MACHINE_LOG.after(0)] == [1, 2, 3]
    assert [change.sequence for change in await MACHINE_LOG.after(3)] == [4, 5]


@pytest.mark.parametrize(
    "cursor", ["", "-1", "1.0", " 1", "x", "1e3", "１", "9" * 18, "1" * 19, "0x1", "\x00", "4"]
)
async def test_cursors_that_nobody_gave(cursor: str) -> None:
    await happen(3)
    with pytest.raises(InvalidInput) as caught:
        await MACHINE_LOG.parse_cursor(cursor)
    assert caught.value.field == ["after"]


async def test_cursors_of_everything_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await MACHINE_LOG.parse_cursor("0") == 0
    await happen(10)
    assert [await MACHINE_LOG.parse_cursor(str(number)) for number in range(11)] == list(range(11))

    monkeypatch.setattr(logs, "KEPT", 4)
    await MACHINE_LOG.prune()
    assert [change.sequence for change in await MachineChange.all().order_by("sequence")] == [
        7,
        8,
        9,
        10,
    ]
    for number in range(6, 11):
        assert await MACHINE_LOG.parse_cursor(str(number)) == number
    for number in range(6):
        with pytest.raises(CursorExpired, match="query the machines again") as caught:
            await MACHINE_LOG.parse_cursor(str(number))
        assert caught.value.field == ["after"]


async def test_nothing_kept_but_the_newest_is_still_a_cursor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await happen(3)
    monkeypatch.setattr(logs, "KEPT", 0)
    await MACHINE_LOG.prune()
    assert await MachineChange.all().count() == 0
    assert await MACHINE_LOG.parse_cursor("3") == 3
    with pytest.raises(CursorExpired):
        await MACHINE_LOG.parse_cursor("2")

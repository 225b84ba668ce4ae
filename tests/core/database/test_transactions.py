import asyncio
import random

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.database.failures import DatabaseUnavailable
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import User
from tests.core.people import make_user

pytestmark = pytest.mark.usefixtures("database")


class Changed(Exception):
    """Somebody's mind."""


async def names() -> set[str]:
    return {user.username for user in await User.all()}


async def change_ones_mind(*names: str) -> None:
    """A transaction that makes users and then fails."""
    async with transaction():
        for name in names:
            await make_user(name)
        raise Changed


async def test_all_of_it_or_nothing() -> None:
    with pytest.raises(Changed):
        await change_ones_mind("alice", "bob")
    assert await names() == set()


async def test_what_is_inside_rolls_back_alone() -> None:
    async with transaction():
        await make_user("alice")
        with pytest.raises(Changed):
            await change_ones_mind("bob")
        with pytest.raises(IntegrityError):
            async with transaction():
                await make_user("ALICE")
        async with transaction():
            await make_user("carol")
    assert await names() == {"alice", "carol"}


async def test_an_outer_rollback_takes_the_inner_one_along() -> None:
    async def outer() -> None:
        async with transaction():
            async with transaction():
                await make_user("alice")
            assert await names() == {"alice"}
            raise Changed

    with pytest.raises(Changed):
        await outer()
    assert await names() == set()


async def test_others_see_it_after_the_commit_only() -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def writer() -> None:
        async with transaction():
            await make_user("alice")
            inside.set()
            await go_on.wait()

    writing = asyncio.create_task(writer())
    await inside.wait()
    # On SQLite a reader of this process waits for the writer, on PostgreSQL it sees the past.
    reading = asyncio.create_task(names())
    await asyncio.wait({reading}, timeout=0.05)
    seen_early = reading.result() if reading.done() else set()
    go_on.set()
    await writing
    assert seen_early == set()
    await reading
    assert await names() == {"alice"}


async def test_increments_of_many_tasks_are_all_counted() -> None:
    user = await make_user("alice")
    await User.filter(id=user.id).update(created_at=0)

    async def increment() -> None:
        async with transaction():
            row = await User.filter(id=user.id).select_for_update().get()
            await User.filter(id=user.id).update(created_at=row.created_at + 1)

    await asyncio.gather(*(increment() for _ in range(50)))
    assert (await User.get(id=user.id)).created_at == 50


@pytest.mark.parametrize("turns", range(6))
async def test_a_transaction_cancelled_at_its_beginning_leaves_no_lock_behind(turns: int) -> None:
    async def write() -> None:
        async with transaction():
            await make_user()

    for _ in range(12):
        task = asyncio.create_task(write())
        # Somewhere between asking for the connection and the first statement.
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with asyncio.timeout(5):
        await write()
        assert len(await names()) >= 1


async def test_cancelling_anywhere_leaves_whole_transactions_and_a_usable_database() -> None:
    chance = random.Random(7)

    async def pair(number: int) -> None:
        async with transaction():
            await make_user(f"left{number}")
            await make_user(f"right{number}")

    for start in range(0, 60, 6):
        tasks = [asyncio.create_task(pair(number)) for number in range(start, start + 6)]
        for task in tasks:
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async with asyncio.timeout(10):
        # More at once than a pool has connections: none may have been lost.
        await asyncio.gather(*(pair(number) for number in range(100, 125)))
        found = await names()
    left = {name.removeprefix("left") for name in found if name.startswith("left")}
    right = {name.removeprefix("right") for name in found if name.startswith("right")}
    assert left == right
    assert len(left) >= 25


@pytest.mark.parametrize("settings", ["postgres"], indirect=True)
async def test_a_deadlock_undoes_one_and_says_that_it_may_try_again() -> None:
    first, second = (await make_user("alice")).id, (await make_user("bob")).id
    both = asyncio.Barrier(2)

    async def disable(*user_ids: object) -> str | None:
        try:
            async with transaction():
                await User.filter(id=user_ids[0]).update(disabled_at=1)
                await both.wait()
                await User.filter(id=user_ids[1]).update(disabled_at=1)
        except DatabaseUnavailable as error:
            return error.message
        return None

    outcomes = await asyncio.gather(disable(first, second), disable(second, first))
    (told,) = (outcome for outcome in outcomes if outcome is not None)
    assert told.endswith("which was undone: try again.")
    assert await User.filter(disabled_at=1).count() == 2

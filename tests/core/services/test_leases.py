"""One owner of each duty, on both databases."""

import asyncio
import uuid

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Lease
from remotegpu_core.services import leases

pytestmark = pytest.mark.usefixtures("database")

A, B = uuid.UUID(int=1), uuid.UUID(int=2)


async def test_a_duty_stays_with_its_owner_and_is_taken_over_from_the_dead() -> None:
    assert await leases.hold("sweep", A) == 1
    assert await leases.hold("sweep", A) == 1
    assert await leases.hold("sweep", B) is None
    assert await leases.hold("prune", B) == 1
    # It was stopped, and its time ran out.
    await Lease.filter(name="sweep").update(until=now_ms() - 1)
    assert await leases.hold("sweep", B) == 2
    # It wakes, asks before it acts, and finds out.
    assert await leases.hold("sweep", A) is None
    row = await Lease.get(name="sweep")
    assert (row.holder, row.token) == (B, 2)
    assert 0 < row.until - now_ms() <= leases.LIFETIME


async def test_an_owner_that_was_late_and_missed_by_nobody_stays_one() -> None:
    assert await leases.hold("sweep", A) == 1
    await Lease.filter(name="sweep").update(until=now_ms() - 1)
    assert await leases.hold("sweep", A) == 1


async def test_who_leaves_in_good_order_keeps_nobody_waiting() -> None:
    assert await leases.hold("sweep", A) == 1
    assert await leases.hold("prune", A) == 1
    await leases.let_go(A)
    assert await leases.hold("sweep", B) == 2
    assert await leases.hold("prune", B) == 2


async def test_of_many_that_ask_at_once_one_has_it() -> None:
    for _ in range(3):
        tokens = await asyncio.gather(*(leases.hold("sweep", uuid.uuid4()) for _ in range(8)))
        assert len([token for token in tokens if token is not None]) == 1
        await Lease.all().update(until=0)
    assert (await Lease.get(name="sweep")).token == 3


async def test_names_are_no_sql() -> None:
    with pytest.raises(ValueError, match="name a duty"):
        await leases.hold("x'; DROP TABLE lease; --", A)

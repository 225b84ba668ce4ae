import base64
import random
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remotegpu_core.errors import InvalidInput
from remotegpu_core.models import Machine
from remotegpu_core.paging import DEFAULT_PAGE, MAX_PAGE, Order, PageRequest, fetch_page
from tests.core.hosts import make_machine

pytestmark = pytest.mark.usefixtures("database")

ORDERS = [
    Order(field, descending)
    for field in ("name_key", "created_at", "id")
    for descending in (False, True)
]


async def machines(count: int) -> list[Machine]:
    """Machines in no order, several of them made in the same millisecond."""
    chance = random.Random(count)
    made = []
    for number in chance.sample(range(count), count):
        machine = await make_machine(f"node-{number:03}")
        await Machine.filter(id=machine.id).update(created_at=number // 4)
        made.append(await Machine.get(id=machine.id))
    return made


def in_order(rows: list[Machine], order: Order) -> list[Machine]:
    return sorted(
        rows, key=lambda row: (getattr(row, order.field), row.id), reverse=order.descending
    )


async def forwards(order: Order, size: int) -> list[list[Machine]]:
    pages, after = [], None
    while True:
        page = await fetch_page(Machine.all(), order, PageRequest(first=size, after=after))
        pages.append(page.rows)
        assert page.has_previous == (after is not None)
        if not page.has_next:
            return pages
        assert len(page.rows) == size
        after = page.cursors[-1]


async def backwards(order: Order, size: int) -> list[list[Machine]]:
    pages, before = [], None
    while True:
        page = await fetch_page(Machine.all(), order, PageRequest(last=size, before=before))
        pages.append(page.rows)
        assert page.has_next == (before is not None)
        if not page.has_previous:
            return pages
        assert len(page.rows) == size
        before = page.cursors[0]


@pytest.mark.parametrize("order", ORDERS, ids=str)
async def test_pages_are_the_list_cut_up_from_either_end(order: Order) -> None:
    expected = in_order(await machines(23), order)
    for size in (1, 2, 5, 22, 23, 24, MAX_PAGE):
        ahead = [row for page in await forwards(order, size) for row in page]
        assert ahead == expected
        back = [row for page in reversed(await backwards(order, size)) for row in page]
        assert back == expected


@pytest.mark.parametrize("order", ORDERS, ids=str)
@settings(
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    size=st.integers(1, 6),
    ahead=st.booleans(),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=8),
)
async def test_rows_that_come_and_go_disturb_no_other(
    order: Order, size: int, ahead: bool, steps: list[tuple[bool, int]]
) -> None:
    await Machine.all().delete()
    kept = in_order(await machines(12), order)
    visitors: list[Machine] = []
    seen: list[uuid.UUID] = []
    cursor, more, changes = None, True, iter(steps)
    while more:
        request = (
            PageRequest(first=size, after=cursor)
            if ahead
            else PageRequest(last=size, before=cursor)
        )
        page = await fetch_page(Machine.all(), order, request)
        ids = [row.id for row in page.rows]
        seen = seen + ids if ahead else ids + seen
        more = page.has_next if ahead else page.has_previous
        cursor = (page.cursors[-1] if ahead else page.cursors[0]) if page.cursors else None
        arrives, number = next(changes, (False, 0))
        if arrives:
            visitor = await make_machine(f"node-{number:03}-{uuid.uuid4().hex[:8]}")
            await Machine.filter(id=visitor.id).update(created_at=number)
            visitors.append(visitor)
        elif visitors:
            # Perhaps the very row that the cursor points to.
            await Machine.filter(id=visitors.pop().id).delete()
    staying = {row.id for row in kept}
    assert [row_id for row_id in seen if row_id in staying] == [row.id for row in kept]
    assert len(seen) == len(set(seen))


async def test_totals_count_the_list_and_not_the_page() -> None:
    await machines(7)
    request = PageRequest(first=2)
    page = await fetch_page(Machine.filter(created_at=0), Order("name_key"), request)
    assert len(page.rows) == 2
    assert await page.count() == 4
    rest = await fetch_page(
        Machine.filter(created_at=0), Order("name_key"), PageRequest(after=page.cursors[-1])
    )
    assert await rest.count() == 4
    assert len(rest.rows) == 2


async def test_an_empty_list_and_an_empty_page() -> None:
    page = await fetch_page(Machine.all(), Order("name_key"), PageRequest())
    assert (page.rows, page.cursors, page.has_next, page.has_previous) == ([], [], False, False)
    assert await page.count() == 0
    await make_machine()
    page = await fetch_page(Machine.all(), Order("name_key"), PageRequest(first=0))
    assert (page.rows, page.has_next) == ([], True)


async def test_the_default_size() -> None:
    await machines(DEFAULT_PAGE + 1)
    page = await fetch_page(Machine.all(), Order("name_key"), PageRequest())
    assert len(page.rows) == DEFAULT_PAGE
    assert page.has_next


async def test_between_two_cursors() -> None:
    await machines(9)
    whole = await fetch_page(Machine.all(), Order("name_key"), PageRequest(first=9))
    page = await fetch_page(
        Machine.all(),
        Order("name_key"),
        PageRequest(first=9, after=whole.cursors[1], before=whole.cursors[5]),
    )
    assert page.rows == whole.rows[2:5]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (PageRequest(first=1, last=1), "first"),
        (PageRequest(first=-1), "first"),
        (PageRequest(first=MAX_PAGE + 1), "first"),
        (PageRequest(last=MAX_PAGE + 1), "last"),
    ],
)
async def test_sizes_that_cannot_be(request_: PageRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await fetch_page(Machine.all(), Order("name_key"), request_)
    assert caught.value.field == [field]


def forged(*parts: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(list(parts))).decode().rstrip("=")


ID = uuid.UUID(int=7).bytes

BAD = [
    "",
    "x",
    "not a cursor",
    "é",
    "a" * 100_000,
    "AAAA=AAA",
    forged("created_at", 1, ID),
    forged("name_key", None, ID),
    forged("name_key", 7, ID),
    forged("name_key", "nul\x00", ID),
    forged("name_key", "x" * 1000, ID),
    forged("name_key", "a", b"short"),
    forged("name_key", "a"),
    forged("password_hash", "a", ID),
    forged("name_key", ["a"], ID),
]


@pytest.mark.parametrize("cursor", BAD, ids=range(len(BAD)))
async def test_cursors_that_this_list_never_gave(cursor: str) -> None:
    await make_machine()
    for request in (PageRequest(after=cursor), PageRequest(before=cursor)):
        with pytest.raises(InvalidInput, match="cursor that this list gave") as caught:
            await fetch_page(Machine.all(), Order("name_key"), request)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("value", ["a", None, 2**63, 2**64 - 1, True, 1.5])
async def test_numbers_that_no_row_can_have(value: object) -> None:
    with pytest.raises(InvalidInput, match="cursor that this list gave"):
        await fetch_page(
            Machine.all(), Order("created_at"), PageRequest(after=forged("created_at", value, ID))
        )


async def test_a_cursor_of_another_order_is_refused() -> None:
    await machines(3)
    page = await fetch_page(Machine.all(), Order("id"), PageRequest(first=1))
    with pytest.raises(InvalidInput):
        await fetch_page(Machine.all(), Order("name_key"), PageRequest(after=page.cursors[0]))

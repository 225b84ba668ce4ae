"""A report is judged item by item, whatever it says as a whole."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core.actor import Actor
from remotegpu_core.models import Allocation, CleaningReceipt, Machine, QuarantineCause
from remotegpu_core.services.allocations.proof import shortcomings
from remotegpu_core.services.allocations.release import release
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState, Lifecycle
from remotegpu_protocol.inventory import Policy
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport
from remotegpu_protocol.surfaces import SURFACES, Surface
from tests.core.services.allocations.hosts import (
    CLEAN_SURFACES,
    POLICY,
    active,
    answer,
    carry_out,
    get,
    make_host,
    waiting,
)

REAL = Policy(commands=POLICY.commands)
NOBODY = CleanedSurface(Surface.ACCOUNT, "none", 0, 0, verified=True)

Items = list[CleanedSurface]


@dataclass(frozen=True)
class Lie:
    """What a host does to the items of a proof, or says of the whole, and what it is told."""

    expected: str
    change: Callable[[Items], Items] = lambda items: items
    simulated: bool = False
    verified: bool = True


def _with(number: int, **values: object) -> Callable[[Items], Items]:
    def change(items: Items) -> Items:
        changed = msgspec.structs.replace(items[number], **values)
        return [*items[:number], changed, *items[number + 1 :]]

    return change


LIES = {
    "an item that failed": Lie(
        "SSH keys (found 3, removed 1)",
        _with(2, found=3, removed=1, verified=False, detail=None),
    ),
    "an item that contradicts itself": Lie(
        "cron (it found 3, removed 1 and says that nothing is left)",
        _with(4, found=3, removed=1),
    ),
    "no items": Lie("no item for view of the host, sign-in", lambda _: []),
    "a surface that is missing": Lie("no item for cron", lambda items: items[:4] + items[5:]),
    "a surface that comes twice": Lie(
        "more than one item for account", lambda items: [*items, items[-1]]
    ),
    "another name": Lie("no item for account", _with(len(SURFACES) - 1, surface="accounts")),
    "a simulation": Lie("the policy of this host is not", simulated=True),
    "nothing but a word": Lie("no item for", lambda items: items[:1]),
    "nobody signed in": Lie("no item for", lambda _: [NOBODY]),
    "not verified as a whole": Lie("the report as a whole", verified=False),
}


def report_of(lie: Lie) -> CleaningReport:
    items = lie.change(list(CLEAN_SURFACES))
    return CleaningReport(
        performed=True, verified=lie.verified, simulated=lie.simulated, items=items
    )


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_missing_is_said(lie: Lie) -> None:
    code, message = shortcomings(report_of(lie), simulated_host=False, was_active=True) or (
        None,
        "",
    )
    assert (code, lie.expected in message) == ("NOT_VERIFIED", True), message


def test_a_proof() -> None:
    proof = CleaningReport(performed=True, verified=True, items=CLEAN_SURFACES)
    more = [*CLEAN_SURFACES, CleanedSurface("quantum foam", "removed", 1, 1, verified=True)]
    nobody = CleaningReport(performed=True, verified=True, items=[NOBODY])
    for report, was_active in (
        (proof, True),
        # A newer agent knows of more.
        (msgspec.structs.replace(proof, items=more), True),
        (msgspec.structs.replace(proof, items=list(reversed(CLEAN_SURFACES))), True),
        (nobody, False),
    ):
        assert shortcomings(report, simulated_host=False, was_active=was_active) is None
    assert shortcomings(proof, simulated_host=True, was_active=True)


@given(
    st.lists(
        st.builds(
            CleanedSurface,
            surface=st.sampled_from([*SURFACES, "foam"]),
            action=st.sampled_from(["none", "removed"]),
            found=st.integers(0, 2),
            removed=st.integers(0, 2),
            verified=st.booleans(),
        ),
        max_size=40,
    ),
    st.booleans(),
    st.booleans(),
)
def test_nothing_else_is_one(items: Items, verified: bool, was_active: bool) -> None:
    report = CleaningReport(performed=True, verified=verified, items=items)
    if shortcomings(report, simulated_host=False, was_active=was_active) is None:
        assert verified
        assert all(item.verified and item.found == item.removed for item in items)
        assert {item.surface for item in items} >= set(SURFACES) or (
            items == [NOBODY] and not was_active
        )


@pytest.mark.usefixtures("database")
async def test_a_host_that_lies_is_quarantined(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", policy=REAL)
    allocation = await active(admin, settings, host)
    for lie in LIES.values():
        await release(admin, allocation.id)
        after = await carry_out(allocation, report_of(lie))
        assert after.state is AllocationState.RECLAIMING
        machine = await Machine.get(id=host.id)
        assert machine.lifecycle is Lifecycle.QUARANTINED
        cause = await QuarantineCause.get()
        assert lie.expected in cause.message
        assert not await CleaningReceipt.exists()
    proof = CleaningReport(performed=True, verified=True, items=CLEAN_SURFACES)
    await release(admin, allocation.id)
    assert (await carry_out(allocation, proof)).state is AllocationState.RELEASED
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.IN_SERVICE


@pytest.mark.usefixtures("database")
async def test_a_start_that_failed_before_there_was_an_account(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", policy=REAL)
    allocation = await get(admin, settings, host)
    (start,) = await waiting(allocation)
    await answer(start, CommandState.FAILED)
    nobody = CleaningReport(performed=True, verified=True, items=[NOBODY])
    assert (await carry_out(allocation, nobody)).state is AllocationState.FAILED
    assert (await CleaningReceipt.get()).verified
    assert not await QuarantineCause.exists()


@pytest.mark.usefixtures("database")
async def test_a_host_that_sends_no_report(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", policy=REAL)
    allocation = await active(admin, settings, host)
    await release(admin, allocation.id)
    (end,) = await waiting(allocation)
    await answer(end)
    assert (await Allocation.get(id=allocation.id)).state is AllocationState.RECLAIMING
    assert "sends no report" in (await QuarantineCause.get()).message

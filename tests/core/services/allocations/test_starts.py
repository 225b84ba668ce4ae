"""A host whose starts fail does not attract every request."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import NoCapacity
from remotegpu_core.models import Allocation, Machine, QuarantineCause
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.starts import MAX_FAILED
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState, Health, Lifecycle
from tests.core.services.allocations.hosts import (
    Host,
    active,
    answer,
    any_gpus,
    carry_out,
    get,
    make_host,
    report,
    waiting,
)

pytestmark = pytest.mark.usefixtures("database")

TOLD = "The last start of an allocation failed: it did not work"


async def fail(
    actor: Actor, settings: Settings, host: Host, end: CommandState = CommandState.FAILED
) -> Allocation:
    """A start on this host that comes to nothing, and is cleaned."""
    row = await get(actor, settings, host, gpu_ids=host.gpu(0))
    (start,) = await waiting(row)
    await answer(start, end)
    return await carry_out(row)


async def state(host: Host) -> tuple[Lifecycle, Health, list[str]]:
    row = await Machine.get(id=host.id)
    return row.lifecycle, row.health, row.health_reasons


async def test_a_failed_start_weighs_more_than_a_good_fit(settings: Settings, admin: Actor) -> None:
    # The small one fits best, and "a" comes first by its name.
    small, large = await make_host("a", 1), await make_host("b", 8)
    went = [await get(admin, settings, requirement=any_gpus(1))]
    assert went[0].machine_id == small.id
    (start,) = await waiting(went[0])
    await answer(start, CommandState.FAILED)
    await carry_out(went[0])
    assert await state(small) == (Lifecycle.IN_SERVICE, Health.DEGRADED, [TOLD])
    went = [await carry_out(await get(admin, settings, requirement=any_gpus(1))) for _ in range(5)]
    assert {row.machine_id for row in went} == {large.id}
    # The next inventory does not forget it, a start that succeeds does.
    await report(small, 1)
    assert await state(small) == (Lifecycle.IN_SERVICE, Health.DEGRADED, [TOLD])
    await active(admin, settings, small)
    assert await state(small) == (Lifecycle.IN_SERVICE, Health.HEALTHY, [])


async def test_a_few_in_a_row_stop_it(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 2)
    ends = [CommandState.FAILED, CommandState.REFUSED, CommandState.INDETERMINATE]
    for end in ends[: MAX_FAILED - 1]:
        await fail(admin, settings, host, end)
        assert (await state(host))[0] is Lifecycle.IN_SERVICE
    last = await fail(admin, settings, host, ends[-1])
    assert last.state is AllocationState.FAILED
    assert (await state(host))[0] is Lifecycle.QUARANTINED
    cause = await QuarantineCause.get()
    assert (cause.code, cause.message) == (
        "STARTS_FAILED",
        f"{MAX_FAILED} starts in a row failed. The last one: it did not work",
    )
    with pytest.raises(NoCapacity, match="starts in a row"):
        await get(admin, settings, host)
    # On probation: one more failure, and it is out again.
    assert (await override_quarantine(admin, host.id, "mended")).lifecycle is Lifecycle.IN_SERVICE
    await fail(admin, settings, host)
    assert (await state(host))[0] is Lifecycle.QUARANTINED
    await override_quarantine(admin, host.id, "mended at last")
    await active(admin, settings, host, gpu_ids=host.gpu(1))
    assert await state(host) == (Lifecycle.IN_SERVICE, Health.HEALTHY, [])
    await fail(admin, settings, host)
    assert (await state(host))[0] is Lifecycle.IN_SERVICE


@pytest.mark.parametrize("end", [CommandState.EXPIRED, CommandState.CANCELLED])
async def test_what_is_not_the_hosts_fault(
    settings: Settings, admin: Actor, end: CommandState
) -> None:
    host = await make_host("one", 2)
    for _ in range(MAX_FAILED):
        await fail(admin, settings, host, end)
    assert await state(host) == (Lifecycle.IN_SERVICE, Health.HEALTHY, [])


async def test_a_success_quarantined_meanwhile_lifts_it(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 2)
    running = await get(admin, settings, host, gpu_ids=host.gpu(1))
    for _ in range(MAX_FAILED):
        await fail(admin, settings, host)
    assert (await state(host))[0] is Lifecycle.QUARANTINED
    assert (await carry_out(running)).state is AllocationState.ACTIVE
    assert await state(host) == (Lifecycle.IN_SERVICE, Health.HEALTHY, [])

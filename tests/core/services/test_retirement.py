"""A host that is given up, and comes back as another machine: through every state, each refusal names a
step that exists and works."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, EnrollmentRefused
from remotegpu_core.models import Allocation, CleaningReceipt, Machine, Occupancy, QuarantineCause
from remotegpu_core.services import hosts, maintenance, quotas, retirement
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.enrollments import create_enrollment, redeem
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.presence import disconnect
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.states import AllocationState, Lifecycle
from tests.core.hosts import enroll
from tests.core.people import HOUR, make_tenant
from tests.core.services.allocations.hosts import (
    NOT_CLEANED,
    Host,
    active,
    carry_out,
    get,
    make_host,
)

pytestmark = pytest.mark.usefixtures("database")

State = Callable[[Actor, Settings, Host], Coroutine[Any, Any, Allocation]]


async def reserved(ada: Actor, settings: Settings, host: Host) -> Allocation:
    return await get(ada, settings, host, starts_at=now_ms() + HOUR)


async def starting(ada: Actor, settings: Settings, host: Host) -> Allocation:
    return await get(ada, settings, host)


async def used(ada: Actor, settings: Settings, host: Host) -> Allocation:
    return await active(ada, settings, host)


async def cleaned(ada: Actor, settings: Settings, host: Host) -> Allocation:
    row = await active(ada, settings, host)
    await release(ada, row.id)
    return row


async def dirty(ada: Actor, settings: Settings, host: Host) -> Allocation:
    return await carry_out(await cleaned(ada, settings, host), NOT_CLEANED)


async def held(ada: Actor, settings: Settings, host: Host) -> Allocation:
    row = await active(ada, settings, host)
    async with ledger(host.id):
        await hosts.hold(host.id, CauseCode.HOST_CLONED, hosts.CLONED)
    return row


STATES: Final = (reserved, starting, used, cleaned, dirty, held)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
async def test_each_refusal_names_a_step_that_works(
    settings: Settings, admin: Actor, state: State, alive: bool
) -> None:
    ada = await make_tenant()
    host = await make_host("one", 1, grant=[ada])
    row = await state(ada, settings, host)
    if not alive:
        await disconnect(host.id, host.epoch, last_seen_at=now_ms())
    for _ in range(4):
        refusal = await _refusal(admin, host)
        if refusal is None:
            break
        if "release" in refusal:
            await release(admin, row.id)
        elif state is held:
            assert "If its agent is stopped" in refusal
            await disconnect(host.id, host.epoch, last_seen_at=now_ms())
        else:
            assert "when that has ended" in refusal
            await carry_out(row)
    else:
        raise AssertionError("it was never retired")
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.RETIRED
    assert not await QuarantineCause.exists()
    # Nobody's quota has it any more, and nothing is said to be proven that was not.
    assert not await Occupancy.filter(closed_at=None).exists()
    assert (await Allocation.get(id=row.id)).state is AllocationState.RELEASED
    assert ada.user_id is not None
    _, usage = (await quotas.of_users([ada.user_id], settings))[ada.user_id]
    assert usage.allocations == 0
    receipt = await CleaningReceipt.get_or_none(allocation_id=row.id)
    proven = alive and state not in {dirty, held}
    if receipt is not None and state is not reserved:
        assert receipt.verified is proven or state is starting
        assert receipt.verified or (receipt.reason, receipt.overridden_by_id) == (
            "The machine was retired.",
            admin.user_id,
        )
    with pytest.raises(Conflict, match="retired already"):
        await retirement.retire(admin, host.id)


async def _refusal(admin: Actor, host: Host) -> str | None:
    try:
        await retirement.retire(admin, host.id)
    except Conflict as refusal:
        return refusal.message
    return None


async def test_a_host_comes_back_as_another_machine(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    values: dict[str, Any] = {"machine_name": None, "machine_id": host.id}
    before, _ = await create_enrollment(admin, load_settings(), **values)
    await retirement.retire(admin, host.id)
    with pytest.raises(EnrollmentRefused, match="token of a new machine"):
        await redeem(enroll(before, key="again"), source_address=None)
    with pytest.raises(Conflict, match="machineName instead of machineId"):
        await create_enrollment(admin, load_settings(), **values)
    with pytest.raises(Conflict, match="renameMachine"):
        await create_enrollment(admin, load_settings(), machine_name="ONE")
    await maintenance.rename(admin, host.id, "one-retired")
    token, _ = await create_enrollment(admin, load_settings(), machine_name="one")
    machine = await redeem(enroll(token, key="new"), source_address=None)
    assert (machine.name, machine.lifecycle) == ("one", Lifecycle.IN_SERVICE)
    assert machine.id != host.id
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.RETIRED


@pytest.mark.parametrize("lifecycle", ["IN_SERVICE", "MAINTENANCE", "QUARANTINED", "held"])
async def test_a_machine_is_enrolled_again_in_every_other_state(
    settings: Settings, admin: Actor, lifecycle: str
) -> None:
    host = await make_host("one", 1)
    if lifecycle == "MAINTENANCE":
        await maintenance.start_maintenance(admin, host.id, "new disk")
    elif lifecycle == "QUARANTINED":
        await dirty(admin, settings, host)
    elif lifecycle == "held":
        async with ledger(host.id):
            await hosts.hold(host.id, CauseCode.HOST_CLONED, hosts.CLONED)
    token, _ = await create_enrollment(
        admin, load_settings(), machine_name=None, machine_id=host.id
    )
    machine = await redeem(enroll(token, key="new"), source_address=None)
    machine = await Machine.get(id=machine.id)
    # A new key answers for which host it is, and for nothing else.
    expected = "IN_SERVICE" if lifecycle == "held" else lifecycle
    assert (machine.id, machine.lifecycle, machine.command_hold) == (host.id, expected, None)

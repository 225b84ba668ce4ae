"""Causes, and the lifecycle that follows from them."""

import uuid

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict
from remotegpu_core.models import AuditEvent, Machine, QuarantineCause
from remotegpu_core.services import hosts, maintenance, quarantine, retirement
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode, next_step
from remotegpu_core.settings import Settings
from remotegpu_core.states import Lifecycle
from tests.core.database.test_constraints import insert
from tests.core.hosts import make_machine
from tests.core.services.allocations.hosts import NOT_CLEANED, active, carry_out, make_host

pytestmark = pytest.mark.usefixtures("database")

IN_SERVICE, MAINTENANCE, QUARANTINED, RETIRED = Lifecycle


async def add(machine: Machine, code: CauseCode, message: str = "It smells.") -> bool:
    async with ledger(machine.id):
        return await quarantine.add(machine.id, code, message)


async def lift(machine: Machine, *codes: CauseCode) -> list[str]:
    async with ledger(machine.id):
        return [row.code for row in await quarantine.lift(machine.id, codes)]


async def lifecycle(machine: Machine) -> tuple[Lifecycle, str | None]:
    row = await Machine.get(id=machine.id)
    return row.lifecycle, row.lifecycle_reason


async def test_a_machine_is_quarantined_while_it_has_a_cause() -> None:
    machine = await make_machine()
    assert await add(machine, CauseCode.OTHER)
    assert not await add(machine, CauseCode.OTHER), "it stands already"
    assert await lifecycle(machine) == (QUARANTINED, "It smells.")
    since = (await QuarantineCause.get()).since
    assert await add(machine, CauseCode.OTHER, "It smells of smoke.")
    assert await lifecycle(machine) == (QUARANTINED, "It smells of smoke.")
    assert (await QuarantineCause.get()).since == since
    # What is to be answered first is told first.
    await add(machine, CauseCode.HOST_CLONED, "Two of them.")
    await add(machine, CauseCode.ADDRESS_CONFLICT, "10.0.0.7")
    assert await lifecycle(machine) == (QUARANTINED, "Two of them. There are 2 more causes.")
    assert (await Machine.get(id=machine.id)).command_hold == "Two of them."
    assert await lift(machine, CauseCode.CLEANING_FAILED) == []
    assert await lift(machine, CauseCode.HOST_CLONED) == ["HOST_CLONED"]
    assert (await Machine.get(id=machine.id)).command_hold is None
    assert await lifecycle(machine) == (QUARANTINED, "10.0.0.7 There is another cause.")
    assert len(await lift(machine, *CauseCode)) == 2
    assert await lifecycle(machine) == (IN_SERVICE, None)
    actions = [row.action for row in await AuditEvent.all().order_by("id")]
    assert actions == ["quarantineMachine"] * 4 + ["endQuarantine"] * 3


async def test_operators_say_what_lies_above_it(admin: Actor) -> None:
    machine = await make_machine()
    await maintenance.start_maintenance(admin, machine.id, "new fans")
    await add(machine, CauseCode.OTHER)
    assert await lifecycle(machine) == (MAINTENANCE, "new fans")
    # Whoever puts it into service sees what is left.
    ended = await maintenance.end_maintenance(admin, machine.id)
    assert (ended.lifecycle, ended.lifecycle_reason) == (QUARANTINED, "It smells.")
    await retirement.retire(admin, machine.id)
    assert await lifecycle(machine) == (RETIRED, None)
    assert not await QuarantineCause.exists()
    assert not await add(machine, CauseCode.OTHER)
    assert await lifecycle(machine) == (RETIRED, None)


@pytest.mark.parametrize("code", CauseCode)
async def test_each_cause_is_lifted_only_by_what_answers_it(
    settings: Settings, admin: Actor, code: CauseCode
) -> None:
    host = await make_host("one", 1)
    if code is CauseCode.CLEANING_FAILED:
        row = await active(admin, settings, host)
        await release(admin, row.id)
        await carry_out(row, NOT_CLEANED)
    else:
        await add(host.machine, code)
    assert next_step(code)
    held, by_word = code in quarantine.HOLDING, code in quarantine.OVERRIDABLE
    if held:
        with pytest.raises(Conflict, match="acceptHost"):
            await override_quarantine(admin, host.id, "I looked")
        ended = await hosts.accept_host(admin, host.id)
    elif by_word:
        with pytest.raises(Conflict, match="not held"):
            await hosts.accept_host(admin, host.id)
        ended = await override_quarantine(admin, host.id, "I looked")
    else:
        with pytest.raises(Conflict, match="not ended by a reason"):
            await override_quarantine(admin, host.id, "I looked")
        return
    assert ended.lifecycle is IN_SERVICE


async def test_the_database_holds_it_whatever_the_code_does(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", 1)
    common = {"machine_id": host.id, "message": "x", "since": 1}
    with pytest.raises(IntegrityError, match="cause_takes_out_of_service"):
        await insert("quarantine_cause", id=uuid.uuid4(), code="OTHER", **common)
    row = await active(admin, settings, host)
    await release(admin, row.id)
    await carry_out(row, NOT_CLEANED)
    with pytest.raises(IntegrityError, match="in_service_without_cause"):
        await Machine.filter(id=host.id).update(lifecycle=IN_SERVICE)
    with pytest.raises(IntegrityError, match="cleaning_failed_until_receipt"):
        await QuarantineCause.all().delete()
    for change in ({"code": "OTHER"}, {"allocation_id": None}):
        with pytest.raises(IntegrityError, match="cause_stays_what_it_is"):
            await QuarantineCause.all().update(**change)
    with pytest.raises(IntegrityError):
        await insert(
            "quarantine_cause",
            id=uuid.uuid4(),
            code="CLEANING_FAILED",
            allocation_id=row.id,
            **common,
        )

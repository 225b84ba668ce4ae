"""Nothing that is forgotten by age puts an uncleaned machine back into service."""

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict
from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    Command,
    IdempotencyKey,
    Machine,
    MachineChange,
    Operation,
)
from remotegpu_core.services import commands, hosts, journals, maintenance, presence, pruning
from remotegpu_core.services.addresses.quarantine import judge, settle
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.allocations.retry import retry_reclaim
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState, Lifecycle
from remotegpu_protocol.kinds import ALLOCATION_END
from tests.core.services.allocations.hosts import (
    NOT_CLEANED,
    Host,
    active,
    answer,
    carry_out,
    get,
    make_host,
    waiting,
)

pytestmark = pytest.mark.usefixtures("database")


async def prune_everything() -> None:
    """As if years had passed: whatever a process forgets by itself."""
    await pruning.prune(now_ms() + 1)
    for log in (MachineChange, AllocationEvent, IdempotencyKey):
        await log.all().delete()


async def uncleaned_in_service(host: Host) -> bool:
    """Whether something there failed to be cleaned and the machine may be used all the same."""
    machine = await Machine.get(id=host.id)
    for row in await Allocation.filter(machine_id=host.id, state=AllocationState.RECLAIMING):
        cleaning = await Command.exists(
            allocation_id=row.id, kind=ALLOCATION_END.name, state__in=list(commands.OPEN)
        )
        if not cleaning and machine.lifecycle is Lifecycle.IN_SERVICE:
            return True
    return False


async def pending(admin: Actor, settings: Settings, host: Host) -> Allocation:
    return await get(admin, settings, host)


async def used(admin: Actor, settings: Settings, host: Host) -> Allocation:
    return await active(admin, settings, host)


async def reclaiming(admin: Actor, settings: Settings, host: Host) -> Allocation:
    row = await active(admin, settings, host)
    await release(admin, row.id)
    return row


async def dirty(admin: Actor, settings: Settings, host: Host) -> Allocation:
    return await carry_out(await reclaiming(admin, settings, host), NOT_CLEANED)


async def refused(admin: Actor, settings: Settings, host: Host) -> Allocation:
    row = await reclaiming(admin, settings, host)
    await answer((await waiting(row))[0], CommandState.REFUSED)
    return row


async def indeterminate(admin: Actor, settings: Settings, host: Host) -> Allocation:
    """Its host lost its journal while it cleaned."""
    row = await reclaiming(admin, settings, host)
    await commands.mark_sent([command.id for command in await waiting(row)])
    await Machine.filter(id=host.id).update(journal_id="one", event_sequence=9)
    connected = await Machine.get(id=host.id)
    await journals.meet(connected, journals.Journal("another"))
    return row


async def released(admin: Actor, settings: Settings, host: Host) -> Allocation:
    return await carry_out(await reclaiming(admin, settings, host))


STATES: Final = (pending, used, reclaiming, dirty, refused, indeterminate, released)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_forgotten_and_then_judged(
    settings: Settings,
    admin: Actor,
    state: Callable[[Actor, Settings, Host], Coroutine[Any, Any, Allocation]],
) -> None:
    host = await make_host("one", 1)
    row = await state(admin, settings, host)

    async def held() -> None:
        async with ledger(host.id):
            await hosts.hold(host.id, CauseCode.HOST_CLONED, hosts.CLONED)

    async def judged() -> None:
        async with transaction():
            await judge(host.id, admin)

    async def into_service() -> None:
        await maintenance.start_maintenance(admin, host.id, "a look")
        await maintenance.end_maintenance(admin, host.id)

    async def heard_again() -> None:
        machine = await Machine.get(id=host.id)
        await presence.note_seen({host.id: (machine.epoch, now_ms())})
        await settle()

    async def accepted() -> None:
        await hosts.accept_host(admin, host.id)

    for attempt in (judged, into_service, heard_again, held, accepted, judged, into_service):
        await prune_everything()
        with contextlib.suppress(Conflict):
            await attempt()
        assert not await uncleaned_in_service(host), attempt.__name__

    # And there is a way out that needs nothing of what was forgotten.
    row = await Allocation.get(id=row.id)
    if row.state is AllocationState.RECLAIMING:
        await retry_reclaim(admin, allocation_id=row.id)
        await prune_everything()
        assert (await carry_out(row)).state is AllocationState.RELEASED
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.IN_SERVICE


async def test_an_admin_answers_for_what_nobody_remembers(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    row = await dirty(admin, settings, host)
    await prune_everything()
    assert not await Operation.exists(allocation_id=row.id)
    machine = await override_quarantine(admin, host.id, "wiped by hand")
    assert machine.lifecycle is Lifecycle.IN_SERVICE
    assert (await Allocation.get(id=row.id)).state is AllocationState.RELEASED

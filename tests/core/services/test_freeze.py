"""When nothing may be destroyed without somebody having asked."""

import uuid

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, Forbidden
from remotegpu_core.models import AuditEvent, Freeze, MachineChange, Replica
from remotegpu_core.services import freeze, presence
from remotegpu_core.services.replicas import REPLICA_DEAD_AFTER
from remotegpu_core.states import Lifecycle
from tests.core.hosts import make_machine, make_online
from tests.core.people import make_tenant

pytestmark = pytest.mark.usefixtures("database")


async def silence(count: int) -> None:
    for _ in range(count):
        machine, epoch = await make_online()
        assert await presence.disconnect(machine.id, epoch, last_seen_at=now_ms())


async def test_three_of_ten_and_no_fewer() -> None:
    for _ in range(7):
        await make_online()
    await silence(2)
    assert not await freeze.look()
    assert not await freeze.is_frozen()
    await silence(1)
    assert await freeze.look()
    held = await freeze.current()
    assert held is not None
    assert held.reason == "3 of 10 machines fell silent within a minute."
    assert held.until - held.started_at == freeze.QUIET
    assert await AuditEvent.filter(action="freeze").count() == 1


async def test_a_tenth_is_not_enough() -> None:
    for _ in range(27):
        await make_online()
    await silence(3)
    assert not await freeze.look()
    await silence(1)
    assert await freeze.look()


async def test_those_that_came_back_or_are_retired_do_not_count() -> None:
    machine, epoch = await make_online()
    await presence.disconnect(machine.id, epoch, last_seen_at=now_ms())
    await presence.connect(machine.id, uuid.uuid4(), agent_version="1", boot_id="boot-1")
    await silence(2)
    await make_machine(lifecycle=Lifecycle.RETIRED)
    assert not await freeze.look()


async def test_those_of_long_ago_do_not_count() -> None:
    await silence(5)
    await MachineChange.all().update(at=now_ms() - freeze.WINDOW - 1)
    assert not await freeze.look()


async def test_it_goes_on_for_as_long_as_its_cause(admin: Actor) -> None:
    await silence(3)
    assert await freeze.look()
    first = await Freeze.get()
    await Freeze.all().update(until=now_ms() + 1000)
    assert await freeze.look()
    again = await Freeze.get()
    assert (again.id, again.reason) == (first.id, first.reason)
    assert again.until - now_ms() > freeze.QUIET - 5000
    await Freeze.all().update(until=now_ms() - 1)
    assert not await freeze.is_frozen()
    with pytest.raises(Conflict):
        await freeze.end(admin)


async def test_an_admin_ends_it(admin: Actor) -> None:
    await silence(3)
    await freeze.look()
    with pytest.raises(Forbidden):
        await freeze.end(await make_tenant())
    ended = await freeze.end(admin)
    assert ended.ended_at is not None
    assert not await freeze.is_frozen()
    event = await AuditEvent.get(action="endFreeze")
    assert event.details == {"reason": ended.reason}
    with pytest.raises(Conflict, match="Nothing is frozen"):
        await freeze.end(SYSTEM)


async def test_the_first_replica_knows_nothing_yet() -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    assert await freeze.note_start(one)
    assert await freeze.is_frozen()
    await Freeze.all().delete()
    await presence.beat(one, now_ms())
    # The others know.
    assert not await freeze.note_start(two)
    assert not await freeze.is_frozen()
    await Replica.all().update(heartbeat_at=now_ms() - REPLICA_DEAD_AFTER - 1)
    assert await freeze.note_start(two)


async def test_what_is_long_over_is_forgotten() -> None:
    await freeze.note_start(uuid.uuid4())
    await freeze.prune(now_ms())
    assert await Freeze.all().count() == 1
    await Freeze.all().update(until=now_ms() - 10)
    await freeze.prune(now_ms())
    assert await Freeze.all().count() == 0

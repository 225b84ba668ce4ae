import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tortoise.connection import get_connection

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Machine, MachineChange, Replica
from remotegpu_core.services import presence
from remotegpu_core.services.presence import (
    beat,
    connect,
    disconnect,
    give_up,
    note_seen,
    release_orphans,
    retire_replica,
)
from remotegpu_core.services.replicas import REPLICA_DEAD_AFTER
from remotegpu_core.states import Presence
from remotegpu_protocol.limits import LOST_AFTER, UNREACHABLE_AFTER
from tests.core.clocks import HandClock
from tests.core.hosts import REPLICA, make_machine, make_online

pytestmark = pytest.mark.usefixtures("database")

LOST = int(LOST_AFTER * 1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    hand = HandClock(now_ms())
    monkeypatch.setattr(presence, "now_ms", hand)
    return hand


async def state(machine: Machine) -> Presence:
    return (await Machine.get(id=machine.id)).presence


async def changes() -> int:
    return await MachineChange.filter(kind="PRESENCE_CHANGED").count()


async def again(machine: Machine, replica: uuid.UUID = REPLICA) -> int:
    connected = await connect(machine.id, replica, agent_version="1.1", boot_id="boot-2")
    assert connected is not None
    return connected.epoch


async def test_each_connection_takes_the_next_number(clock: HandClock) -> None:
    machine = await make_machine()
    connected = await connect(machine.id, REPLICA, agent_version="1.0", boot_id="boot-1")
    assert connected is not None
    assert connected.epoch == 1
    row = await Machine.get()
    assert (row.epoch, row.presence, row.replica_id) == (1, Presence.ONLINE, REPLICA)
    assert (row.agent_version, row.boot_id, row.last_seen_at) == ("1.0", "boot-1", clock.now)
    assert await again(machine) == 2
    # It was ONLINE before, so nothing changed for those who watch.
    assert await changes() == 1


async def test_connections_at_once_get_numbers_of_their_own() -> None:
    machine = await make_machine()
    epochs = await asyncio.gather(*(again(machine, uuid.uuid4()) for _ in range(20)))
    assert sorted(epochs) == list(range(1, 21))
    assert await changes() == 1


async def test_a_machine_that_was_removed() -> None:
    assert await connect(uuid.uuid4(), REPLICA, agent_version="1", boot_id="b") is None


async def test_silence_and_return() -> None:
    machine, epoch = await make_online()
    assert await disconnect(machine.id, epoch, last_seen_at=1234)
    row = await Machine.get()
    assert (row.presence, row.last_seen_at) == (Presence.UNREACHABLE, 1234)
    assert not await disconnect(machine.id, epoch, last_seen_at=1234)
    await again(machine)
    assert await state(machine) is Presence.ONLINE
    assert await changes() == 3


async def test_an_older_connection_says_nothing_any_more() -> None:
    machine, epoch = await make_online()
    await again(machine)
    before = await Machine.filter(id=machine.id).values()
    assert not await disconnect(machine.id, epoch, last_seen_at=1)
    await note_seen({machine.id: (epoch, now_ms() + 60_000), uuid.uuid4(): (1, 1)})
    assert await Machine.filter(id=machine.id).values() == before


async def test_a_long_silence_is_a_loss_and_not_a_moment_earlier(clock: HandClock) -> None:
    machine, epoch = await make_online()
    online, _ = await make_online()
    never = await make_machine()
    await disconnect(machine.id, epoch, last_seen_at=clock.now)
    clock.advance(LOST)
    assert await give_up(not_before=0) == 0
    clock.advance(1)
    assert await give_up(not_before=0) == 1
    assert await give_up(not_before=0) == 0
    assert await state(machine) is Presence.LOST
    # One that never connected is not lost, and one that is connected is not silent.
    assert await state(never) is Presence.UNREACHABLE
    assert await state(online) is Presence.ONLINE
    await again(machine)
    assert await state(machine) is Presence.ONLINE


async def test_a_control_plane_that_was_down_holds_it_against_nobody(clock: HandClock) -> None:
    machine, epoch = await make_online()
    await disconnect(machine.id, epoch, last_seen_at=clock.now)
    clock.advance(10 * LOST)
    back = clock.now
    assert await give_up(not_before=back) == 0
    clock.advance(LOST - 1)
    assert await give_up(not_before=back) == 0
    clock.advance(1)
    assert await give_up(not_before=back) == 1


async def test_a_return_beats_giving_up(clock: HandClock) -> None:
    machine, epoch = await make_online()
    await disconnect(machine.id, epoch, last_seen_at=clock.now)
    clock.advance(2 * LOST)
    await asyncio.gather(give_up(not_before=0), again(machine), give_up(not_before=0))
    assert await state(machine) is Presence.ONLINE


async def test_the_links_of_a_dead_replica_are_over(clock: HandClock) -> None:
    living, dead, unknown = [uuid.uuid4() for _ in range(3)]
    machines = []
    for replica in (living, dead, unknown):
        machine = await make_machine()
        await again(machine, replica)
        machines.append(machine)
    await beat(dead, clock.now)
    clock.advance(REPLICA_DEAD_AFTER)
    await beat(living, clock.now)
    assert await release_orphans(not_before=0) == 1
    assert await state(machines[2]) is Presence.UNREACHABLE
    clock.advance(1)
    assert await release_orphans(not_before=clock.now) == 0
    assert await release_orphans(not_before=0) == 1
    assert [await state(machine) for machine in machines[:2]] == [
        Presence.ONLINE,
        Presence.UNREACHABLE,
    ]
    assert int(UNREACHABLE_AFTER * 1000) == REPLICA_DEAD_AFTER


async def test_an_orphan_was_heard_as_long_as_its_replica_lived(clock: HandClock) -> None:
    machine = await make_machine()
    await again(machine)
    connected_at = clock.now
    clock.advance(10 * LOST)
    await beat(REPLICA, connected_at)
    died_at = clock.now
    clock.advance(REPLICA_DEAD_AFTER + 1)
    assert await release_orphans(not_before=0) == 1
    assert (await Machine.get()).last_seen_at == died_at
    # So it is not LOST at once for what was last written down long ago.
    assert await give_up(not_before=0) == 0


async def test_a_replica_that_starts_between_the_two_looks_loses_nothing(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await make_machine()
    newcomer = uuid.uuid4()
    client = get_connection("default")
    looked = False

    def then_start(look: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def looking(*arguments: Any) -> Any:
            nonlocal looked
            seen = await look(*arguments)
            if not looked:
                looked = True
                await beat(newcomer, clock.now)
                await again(machine, newcomer)
            return seen

        return looking

    for name in ("execute_query", "execute_query_dict"):
        monkeypatch.setattr(client, name, then_start(getattr(client, name)))
    await release_orphans(not_before=0)
    assert looked
    assert await state(machine) is Presence.ONLINE


async def test_notes_of_when_machines_were_heard(clock: HandClock) -> None:
    machine, epoch = await make_online()
    await note_seen({machine.id: (epoch, clock.now + 5)})
    assert (await Machine.get()).last_seen_at == clock.now + 5
    # An older note does not turn it back.
    await note_seen({machine.id: (epoch, clock.now)})
    assert (await Machine.get()).last_seen_at == clock.now + 5
    await note_seen({})


async def test_a_machine_whose_replica_only_seemed_dead_is_back(clock: HandClock) -> None:
    """A replica that slept too long, say, for want of memory, with its links unbroken."""
    machine, epoch = await make_online()
    gone, _ = await make_online()
    clock.advance(LOST + 1)
    assert await release_orphans(not_before=0) == 2
    assert await give_up(not_before=0) == 2
    await note_seen({machine.id: (epoch, clock.now)})
    assert await state(machine) is Presence.ONLINE
    assert await state(gone) is Presence.LOST


async def test_a_late_note_brings_no_closed_link_back(clock: HandClock) -> None:
    machine, epoch = await make_online()
    clock.advance(5000)
    heard_at = clock.now
    await disconnect(machine.id, epoch, last_seen_at=heard_at)
    await note_seen({machine.id: (epoch, heard_at)})
    assert await state(machine) is Presence.UNREACHABLE


async def test_notes_of_many_machines_are_written_in_pieces(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "_NOTES_AT_ONCE", 8)
    online = [await make_online() for _ in range(30)]
    notes = {machine.id: (epoch, clock.now + 9) for machine, epoch in online}
    # Two replicas that believe to hold the same links, in orders of their own.
    await asyncio.gather(note_seen(notes), note_seen(dict(reversed(notes.items()))))
    assert await Machine.filter(last_seen_at=clock.now + 9).count() == len(online)


async def test_replicas_come_and_go(clock: HandClock) -> None:
    old, new = uuid.uuid4(), uuid.uuid4()
    await beat(old, clock.now)
    clock.advance(86_400_001)
    await beat(new, clock.now)
    assert [row.id for row in await Replica.all()] == [new]
    started = clock.now
    clock.advance(5)
    await beat(new, started)
    row = await Replica.get()
    assert (row.started_at, row.heartbeat_at) == (started, started + 5)
    await retire_replica(new)
    assert await Replica.all().count() == 0

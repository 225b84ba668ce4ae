"""One machine has an address in a scope: who comes second is kept out."""

import asyncio
import itertools
import random
import sqlite3
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import asyncpg
import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.ids import new_id
from remotegpu_core.models import AddressSource, Machine, MachineAddress
from remotegpu_core.services import maintenance, quarantine, retirement
from remotegpu_core.services.addresses.quarantine import settle
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.settings import Settings
from remotegpu_protocol.inventory import Address, AddressKind
from tests.core.database.test_constraints import insert
from tests.core.hosts import make_machine, make_online
from tests.core.services.addresses.reports import (
    IN_SERVICE,
    MAINTENANCE,
    QUARANTINED,
    audited,
    contested,
    held,
    lifecycle,
    long_ago,
    reason,
    report,
)

pytestmark = pytest.mark.usefixtures("database")


async def test_who_comes_second_is_quarantined_until_the_first_gives_it_up() -> None:
    first, _ = await make_online("first")
    second, _ = await make_online("second")
    await report(first, "10.0.0.7", "10.1.0.7")
    await long_ago(first)
    await report(second, "10.0.0.7", "10.1.0.8")
    assert (await held(first), await held(second)) == (["10.0.0.7", "10.1.0.7"], ["10.1.0.8"])
    assert (await lifecycle(first), await lifecycle(second)) == (IN_SERVICE, QUARANTINED)
    # Whoever sees the machine sees its reason: whose the address is, admins alone are told.
    assert "10.0.0.7" in await reason(second)
    assert "first" not in await reason(second)
    (event,) = await audited("quarantineMachine")
    assert event == {
        "machine": "second",
        "cause": "ADDRESS_CONFLICT",
        "reason": await reason(second),
        "10.0.0.7": "'first' has it among machines without the label 'site'",
    }

    # Once, not with every report.
    await report(second, "10.0.0.7", "10.1.0.8")
    assert len(await audited("quarantineMachine")) == 1
    assert await settle() == 0

    await report(first, "10.1.0.7")
    assert await settle() == 1
    assert (await held(first), await held(second)) == (["10.1.0.7"], ["10.0.0.7", "10.1.0.8"])
    assert (await lifecycle(second), await reason(second)) == (IN_SERVICE, "")
    assert len(await audited("endQuarantine")) == 1
    # Now the first is second.
    await report(first, "10.0.0.7", "10.1.0.7")
    assert (await lifecycle(first), await contested(first)) == (QUARANTINED, ["10.0.0.7"])


async def test_another_address_is_a_way_out() -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, "10.0.0.7", "10.0.0.8")
    await report(second, "10.0.0.7", "10.0.0.8")
    await report(second, "10.0.0.8")
    assert "10.0.0.7" not in await reason(second)
    assert await lifecycle(second) is QUARANTINED
    await report(second, "10.0.0.9")
    assert (await held(second), await lifecycle(second)) == (["10.0.0.9"], IN_SERVICE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10.0.0.7", "::ffff:10.0.0.7"),
        ("2001:db8::7", "2001:0DB8:0:0:0:0:0:7"),
        ("2600::7", "2600::7%eth0"),
    ],
)
async def test_another_spelling_is_no_other_address(one: str, other: str) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, one)
    await report(second, other)
    assert len(await held(first)) == 1
    assert len(await contested(second)) == 1
    assert await lifecycle(second) is QUARANTINED


async def test_what_every_host_has_is_nobodys() -> None:
    """A hostile or an old agent leaves nothing out, and may send what is no address at all."""
    for name in ("first", "second"):
        machine, _ = await make_online(name)
        applied = await report(
            machine,
            *("127.0.0.1", "::1", "fe80::1", "169.254.1.1", "0.1.2.3", "224.0.0.1", "nonsense"),
        )
        assert not applied.stale
        assert await MachineAddress.filter(machine_id=machine.id).count() == 0
        assert await lifecycle(machine) is IN_SERVICE


async def test_the_same_address_twice_is_one() -> None:
    machine, _ = await make_online()
    await report(machine, "10.0.0.7", Address("::ffff:10.0.0.7", AddressKind.ADDITIONAL, "eth1"))
    assert await held(machine) == ["10.0.0.7"]


async def test_sites_have_private_addresses_of_their_own(admin: Actor) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, "10.0.0.7", "8.8.8.8")
    await report(second, "10.0.0.7", "8.8.4.4")
    assert await lifecycle(second) is QUARANTINED
    moved = await maintenance.set_labels(admin, second.id, [("site", "north")])
    assert moved.lifecycle is IN_SERVICE
    assert await held(second) == ["10.0.0.7", "8.8.4.4"]
    # What is routable worldwide is one machine's wherever it stands.
    await report(second, "10.0.0.7", "8.8.8.8")
    assert (await contested(second), await lifecycle(second)) == (["8.8.8.8"], QUARANTINED)
    await report(second, "10.0.0.7")
    # Back at the first one's site, it is second again.
    moved = await maintenance.set_labels(admin, second.id, [])
    assert (moved.lifecycle, await contested(second)) == (QUARANTINED, ["10.0.0.7"])


async def test_a_retired_machine_has_no_address(admin: Actor) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, "10.0.0.7")
    await report(second, "10.0.0.7")
    await retirement.retire(admin, first.id)
    await settle()
    assert (await held(second), await lifecycle(second)) == (["10.0.0.7"], IN_SERVICE)
    await maintenance.set_labels(admin, first.id, [("site", "north")])
    assert await MachineAddress.filter(machine_id=first.id).count() == 0


async def test_maintenance_is_not_ended_into_service(admin: Actor) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, "10.0.0.7")
    await maintenance.start_maintenance(admin, second.id, "new fans")
    await report(second, "10.0.0.7")
    assert (await lifecycle(second), await reason(second)) == (MAINTENANCE, "new fans")
    assert (await maintenance.end_maintenance(admin, second.id)).lifecycle is QUARANTINED


async def test_a_quarantine_for_something_else_stays() -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    async with ledger(second.id):
        await quarantine.add(second.id, CauseCode.CLEANING_FAILED, "not clean")
    await report(first, "10.0.0.7")
    await report(second, "10.0.0.7")
    assert "10.0.0.7" in await reason(second)
    await report(second)
    assert (await lifecycle(second), await reason(second)) == (QUARANTINED, "not clean")


async def test_a_site_that_was_cloned_is_settled_one_after_the_other() -> None:
    machines = [(await make_online())[0] for _ in range(4)]
    for machine in machines:
        await report(machine, "10.0.0.7")
    for leaving, next_one in itertools.pairwise(machines):
        await report(leaving)
        await settle()
        assert await held(next_one) == ["10.0.0.7"]
        assert await MachineAddress.filter(held=True).count() == 1
    assert await settle() == 0


@pytest.mark.parametrize("turn", range(4))
async def test_hosts_that_race_for_the_same_addresses_get_each_once(turn: int) -> None:
    """Every host in an order of its own, some of them giving up what others ask for."""
    machines = [(await make_online())[0] for _ in range(6)]
    addresses = [f"10.0.0.{number}" for number in range(1, 9)]
    chance = random.Random(turn)
    for _ in range(3):
        wanted = {machine.id: chance.sample(addresses, 5) for machine in machines}
        settling = asyncio.create_task(settle())
        applied = await asyncio.gather(
            *(report(machine, *wanted[machine.id]) for machine in machines)
        )
        assert not any(outcome.stale for outcome in applied)
        await settling
        for machine in machines:
            assert sorted(await held(machine) + await contested(machine)) == sorted(
                wanted[machine.id]
            )
        while await settle():
            pass
        rows = await MachineAddress.filter(held=True)
        assert {row.address for row in rows} == {one for some in wanted.values() for one in some}
        assert len(rows) == len({row.address for row in rows})
        # All of them are claimed since the same moment: who holds a contested one is out as well.
        claimed = {row.address for row in await MachineAddress.filter(held=False)}
        for machine in machines:
            disputed = claimed.intersection(wanted[machine.id])
            assert await lifecycle(machine) is (QUARANTINED if disputed else IN_SERVICE)


async def test_the_database_holds_it_whatever_the_code_does() -> None:
    first, second = await make_machine(), await make_machine()
    common = {"kind": "ADDITIONAL", "source": "AGENT", "created_at": 1}

    async def add(machine_id: uuid.UUID, address: str, *, held: bool, scope: str = "") -> None:
        row = {"id": uuid.uuid4(), "machine_id": machine_id, "scope": scope, "address": address}
        await insert("machine_address", **row, held=held, **common)

    await add(first.id, "8.8.8.8", held=True)
    for held_ in (True, False):
        with pytest.raises(IntegrityError):
            # Twice on one machine, even where it is not held.
            await add(first.id, "8.8.8.8", held=held_, scope="site:")
    with pytest.raises(IntegrityError):
        await add(second.id, "8.8.8.8", held=True)
    await add(second.id, "8.8.8.8", held=False)
    with pytest.raises(IntegrityError):
        await MachineAddress.filter(machine_id=second.id).update(held=True)
    await MachineAddress.filter(machine_id=first.id).update(scope="site:")
    await MachineAddress.filter(machine_id=second.id).update(held=True)


async def test_of_two_connections_that_race_the_index_lets_one_win(settings: Settings) -> None:
    """Both have written and neither has committed: the second waits for the first's end."""
    machines = [await make_machine(), await make_machine()]
    if settings.database_url is None:
        await asyncio.to_thread(_race_on_sqlite, settings, *machines)
    else:
        await _race_on_postgres(settings.database_url, *machines)
    assert await held(machines[0]) == ["8.8.8.8"]
    assert await MachineAddress.filter(machine_id=machines[1].id).count() == 0


def _insert(machine: Machine) -> str:
    return (
        "INSERT INTO machine_address (id, machine_id, scope, address, kind, source, held, "  # noqa: S608 - ids of ours
        f"created_at) VALUES ('{new_id()}', '{machine.id}', '', '8.8.8.8', 'PUBLIC', "
        f"'{AddressSource.AGENT}', TRUE, 1)"
    )


def _race_on_sqlite(settings: Settings, first: Machine, second: Machine) -> None:
    with (
        closing(sqlite3.connect(settings.sqlite_path, isolation_level=None)) as one,
        ThreadPoolExecutor(1) as thread,
    ):
        one.execute("BEGIN IMMEDIATE")
        one.execute(_insert(first))
        waiting = thread.submit(_write_to_sqlite, settings, _insert(second))
        time.sleep(0.2)
        assert not waiting.done()
        one.execute("COMMIT")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            waiting.result()


def _write_to_sqlite(settings: Settings, statement: str) -> None:
    with closing(sqlite3.connect(settings.sqlite_path, timeout=30)) as connection:
        connection.execute(statement)


async def _race_on_postgres(url: str, first: Machine, second: Machine) -> None:
    url = url.replace("asyncpg://", "postgres://")
    one, other = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        transaction = one.transaction()
        await transaction.start()
        await one.execute(_insert(first))
        waiting = asyncio.create_task(other.execute(_insert(second)))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await transaction.commit()
        with pytest.raises(asyncpg.UniqueViolationError):
            await waiting
    finally:
        await one.close()
        await other.close()

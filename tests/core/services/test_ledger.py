"""What a ledger holds until its commit: looked at from another connection."""

import asyncpg
import pytest

from remotegpu_core.database.connection import Database
from remotegpu_core.models import Machine
from remotegpu_core.services.ledger import ledger, ledger_of_all
from remotegpu_core.settings import Settings
from remotegpu_core.versions import Topic
from tests.core.hosts import make_machine

# SQLite lets one in at a time from the beginning of its transaction.
pytestmark = pytest.mark.parametrize("settings", ["postgres"], indirect=True)


async def is_locked(settings: Settings, query: str, *arguments: object) -> bool:
    """Whether somebody else holds the row that the query selects."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.fetch(f"{query} FOR UPDATE NOWAIT", *arguments)
    except asyncpg.LockNotAvailableError:
        return True
    finally:
        await connection.close()
    return False


async def held(settings: Settings, machines: list[Machine]) -> set[str]:
    """Names of the counters and machines that are locked."""
    found = set()
    for topic in Topic:
        if await is_locked(settings, "SELECT 1 FROM version WHERE name = $1", str(topic)):
            found.add(str(topic))
    for machine in machines:
        if await is_locked(settings, "SELECT 1 FROM machine WHERE id = $1", machine.id):
            found.add(machine.name)
    return found


async def test_a_ledger_holds_the_counters_and_its_machines(
    database: Database, settings: Settings
) -> None:
    machines = [await make_machine(name) for name in ("one", "two", "three")]
    counters = {str(topic) for topic in Topic}
    assert await held(settings, machines) == set()
    async with ledger():
        assert await held(settings, machines) == counters
    async with ledger(machines[0].id) as machine:
        assert machine is not None
        assert await held(settings, machines) == {*counters, "one"}
    async with ledger_of_all([machines[2].id, machines[0].id]):
        assert await held(settings, machines) == {*counters, "one", "three"}
    assert await held(settings, machines) == set()

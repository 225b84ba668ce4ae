"""Lists and searches over a fleet find their rows by indexes."""

from collections.abc import AsyncIterator

import pytest

from remotegpu_core.bus.bus import Bus
from remotegpu_core.database.connection import Database
from remotegpu_core.settings import Settings
from tests.core.scale.plans import planned
from tests.core.scale.rows import write_fleet
from tests.core.scale.sql import SMALL


@pytest.fixture
async def small_fleet(sqlite_settings: Settings) -> AsyncIterator[Settings]:
    database = Database(sqlite_settings)
    await database.open()
    try:
        await write_fleet(SMALL)
        yield sqlite_settings
    finally:
        await database.close()


async def test_nothing_reads_a_large_table_from_end_to_end(small_fleet: Settings) -> None:
    bus = Bus(None)
    await bus.start()
    try:
        found = await planned(small_fleet, bus)
    finally:
        await bus.stop()
    assert len(found) > 60
    assert {name: scans for name, scans in found.items() if scans} == {}

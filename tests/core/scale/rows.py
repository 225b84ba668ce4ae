"""Rows of a large fleet, written by the database itself: a million in seconds."""

from tests.core.scale.allocations import write_allocations
from tests.core.scale.logs import write_logs
from tests.core.scale.machines import write_machines
from tests.core.scale.people import write_people
from tests.core.scale.sql import Rows, Size
from tests.core.scale.work import write_work


async def write_fleet(size: Size) -> None:
    """Fill an empty database."""
    rows = Rows(size)
    await write_people(rows)
    await write_machines(rows)
    await write_allocations(rows)
    await write_work(rows)
    await write_logs(rows)
    # What PostgreSQL does by itself, sooner or later; on SQLite the server never does.
    if not rows.sqlite:
        # All bookings were held for a moment, which leaves an index far larger than a real one.
        await rows.client.execute_script("REINDEX TABLE booking")
        await rows.client.execute_script("VACUUM ANALYZE")

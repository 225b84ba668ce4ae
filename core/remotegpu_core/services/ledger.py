"""The transaction around everything that allocates, commands or operates."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Final

from tortoise.connection import get_connection

from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine
from remotegpu_core.versions import Topic

#: The order in which counters are locked, here and by everybody who bumps several.
_ORDER: Final = (
    Topic.MACHINE_CHANGES,
    Topic.ACCESS,
    Topic.ALLOCATIONS,
    Topic.COMMANDS,
    Topic.OPERATIONS,
)


@contextlib.asynccontextmanager
async def ledger(machine_id: uuid.UUID | None = None) -> AsyncIterator[Machine | None]:
    """One at a time over all replicas, so that a quota that was read still holds at the commit.

    The machine's row is locked before the counters, since those who change machines take them in
    this order too: nobody waits for one another. Yields that row; None without a machine, or when
    it is gone.
    """
    async with transaction() as client:
        machine = None
        if machine_id is not None:
            machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
        if client.capabilities.dialect != "sqlite":
            # SQLite has locked everything by now.
            for topic in _ORDER:
                await get_connection("default").execute_query(
                    f"SELECT 1 FROM version WHERE name = '{topic}' FOR UPDATE"  # noqa: S608 - an enum's value
                )
        yield machine

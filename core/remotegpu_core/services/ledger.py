"""The transaction around everything that allocates, commands or operates."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Collection
from typing import Final

from tortoise.backends.base.client import BaseDBAsyncClient
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
# Rows are locked in the order that they are sorted into.
_NAMES: Final = ", ".join(f"'{topic}'" for topic in _ORDER)
_LOCK_COUNTERS: Final = (
    f"SELECT 1 FROM version WHERE name IN ({_NAMES}) "  # noqa: S608 - values of an enum
    f"ORDER BY array_position(ARRAY[{_NAMES}], name::text) FOR UPDATE"
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
        await _lock_counters(client)
        yield machine


@contextlib.asynccontextmanager
async def ledger_of_all(machine_ids: Collection[uuid.UUID]) -> AsyncIterator[None]:
    """`ledger` of several machines at once, locked in the order of their ids."""
    async with transaction() as client:
        # As rows: a list of values would lock nothing.
        await Machine.filter(id__in=list(machine_ids)).order_by("id").select_for_update()
        await _lock_counters(client)
        yield


async def _lock_counters(client: BaseDBAsyncClient) -> None:
    if client.capabilities.dialect == "sqlite":
        # SQLite has locked everything by now.
        return
    await get_connection("default").execute_query(_LOCK_COUNTERS)

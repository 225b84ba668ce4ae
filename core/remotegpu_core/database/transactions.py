"""Transactions, the only way that services write."""

import contextlib
from collections.abc import AsyncIterator

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction


@contextlib.asynccontextmanager
async def transaction() -> AsyncIterator[BaseDBAsyncClient]:
    """Everything inside commits together or not at all.

    On SQLite it holds the write lock from its beginning; on PostgreSQL the isolation is READ
    COMMITTED, so updates state what they rely on in their WHERE. No network call and no new task
    belongs inside.
    """
    async with in_transaction("default") as client:
        yield client

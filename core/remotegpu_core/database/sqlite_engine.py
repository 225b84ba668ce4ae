"""SQLite for Tortoise with transactions that begin as writers and never leave a lock behind.

A deferred BEGIN fails at once, whatever the busy timeout, when another process wrote between its
first read and its first write; BEGIN IMMEDIATE waits for its turn instead.
"""

import asyncio
import sqlite3
from typing import Any

from tortoise.backends.base.client import TransactionalDBClient, TransactionContext
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.connection import get_connections
from tortoise.exceptions import OperationalError


class ImmediateTransaction(SqliteTransactionWrapper):
    async def begin(self) -> None:
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise OperationalError(error) from error


class SafeTransactionContext(SqliteTransactionContext):
    """Gives the connection's lock back when beginning fails or is cancelled."""

    async def __aenter__(self) -> TransactionalDBClient:
        await self._trxlock.acquire()
        try:
            await self.ensure_connection()
            # Shielded: once sent, BEGIN takes effect on the connection's thread, cancelled or not.
            await asyncio.shield(self.connection.begin())
        except BaseException as error:
            if not isinstance(error, OperationalError):
                await asyncio.shield(self.connection._connection.rollback())
            self._trxlock.release()
            raise
        self.token = get_connections().set(self.connection_name, self.connection)
        client: TransactionalDBClient = self.connection
        return client


class Client(SqliteClient):
    """What Tortoise instantiates for the engine `remotegpu_core.database.sqlite_engine`."""

    def _in_transaction(self) -> TransactionContext:
        return SafeTransactionContext(ImmediateTransaction(self), self._lock)


def get_client_class(_info: dict[str, Any]) -> type[Client]:
    return Client

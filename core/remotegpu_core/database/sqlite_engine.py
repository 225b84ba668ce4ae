"""SQLite for Tortoise: writers wait for their turn, readers do not wait, and no lock stays behind.

A deferred BEGIN fails at once, whatever the busy timeout, when another process wrote between its
first read and its first write; BEGIN IMMEDIATE waits for its turn instead. Statements that only
read, outside of transactions, have connections of their own: the write-ahead log lets them read
while another connection, or another process, writes.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, cast

import aiosqlite
from tortoise.backends.base.client import (
    ConnectionWrapper,
    NestedTransactionContext,
    TransactionalDBClient,
    TransactionContext,
)
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.connection import get_connections

from remotegpu_core.database.failures import (
    DatabaseUnavailable,
    Trouble,
    WriteHealth,
    failures_told,
    tell_failure,
)

#: Seconds that a writer of this process waits for another one to finish.
WRITER_WAIT: Final = 15.0
#: Connections that only read: each has a thread and a page cache of up to 2 MiB.
_READERS: Final = 2


async def _acquire(lock: asyncio.Lock) -> None:
    """Take the lock of a connection.

    Raises:
        DatabaseUnavailable: another writer has held it for too long.
    """
    try:
        async with asyncio.timeout(WRITER_WAIT):
            await lock.acquire()
    except TimeoutError as error:
        raise DatabaseUnavailable(Trouble.BUSY) from error


class _Connection(ConnectionWrapper[aiosqlite.Connection]):
    """The client's connection for one statement, with failures told."""

    def __init__(self, lock: asyncio.Lock, client: SqliteClient, health: WriteHealth) -> None:
        super().__init__(lock, client)
        self._health = health

    async def __aenter__(self) -> aiosqlite.Connection:
        await _acquire(self._lock)
        try:
            with failures_told():
                await self.ensure_connection()
        except BaseException:
            self._lock.release()
            raise
        return self.connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        tell_failure(error, self._health.refused)


class ImmediateTransaction(SqliteTransactionWrapper):
    def __init__(self, connection: "Client | ImmediateTransaction") -> None:
        super().__init__(connection)
        self.health: WriteHealth = connection.health

    def acquire_connection(self) -> ConnectionWrapper[aiosqlite.Connection]:
        return _Connection(self._lock, self, self.health)

    async def begin(self) -> None:
        await self._connection.execute("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        try:
            await super().commit()
        except BaseException:
            # A commit that failed leaves its transaction open, and the next one could not begin.
            await asyncio.shield(self._connection.rollback())
            raise

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(ImmediateTransaction(self))


class SafeTransactionContext(SqliteTransactionContext):
    """Gives the connection's lock back, with no transaction open on it, however the block ends."""

    connection: ImmediateTransaction

    async def __aenter__(self) -> TransactionalDBClient:
        await _acquire(self._trxlock)
        try:
            with failures_told():
                await self.ensure_connection()
                # Shielded: once sent, BEGIN takes effect on the connection's thread, cancelled or
                # not.
                await asyncio.shield(self.connection.begin())
        except BaseException as error:
            if isinstance(error, DatabaseUnavailable):
                self.connection.health.refused(error.trouble)
            else:
                await asyncio.shield(self.connection._connection.rollback())
            self._trxlock.release()
            raise
        self.token = get_connections().set(self.connection_name, self.connection)
        return self.connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with failures_told():
                await super().__aexit__(kind, error, trace)
        except DatabaseUnavailable as failure:
            self.connection.health.refused(failure.trouble)
            raise


class _Reader(SqliteClient):
    """One connection that only reads. Its statements wait for one another, and for nothing else."""

    def __init__(self, file_path: str, health: WriteHealth, **kwargs: Any) -> None:
        super().__init__(file_path, **kwargs)
        # The last of the pragmas: those before it may write.
        self.pragmas["query_only"] = "ON"
        self._health = health

    @property
    def is_free(self) -> bool:
        return not self._lock.locked()

    def acquire_connection(self) -> ConnectionWrapper[aiosqlite.Connection]:
        return _Connection(self._lock, self, self._health)


class Client(SqliteClient):
    """What Tortoise instantiates for the engine `remotegpu_core.database.sqlite_engine`."""

    def __init__(self, file_path: str, **kwargs: Any) -> None:
        super().__init__(file_path, **kwargs)
        self.health = WriteHealth()
        self._readers = [_Reader(file_path, self.health, **kwargs) for _ in range(_READERS)]

    async def create_connection(self, with_db: bool) -> None:
        await super().create_connection(with_db)
        # After the first connection, which turns the write-ahead log on; and now rather than with
        # the first statement, when the disk may be full.
        for reader in self._readers:
            await reader.create_connection(with_db)

    async def close(self) -> None:
        for reader in self._readers:
            await reader.close()
        await super().close()

    def acquire_connection(self) -> ConnectionWrapper[aiosqlite.Connection]:
        return _Connection(self._lock, self, self.health)

    async def execute_query(
        self, query: str, values: list[Any] | None = None
    ) -> tuple[int, Sequence[dict[str, Any]]]:
        reader = self._reader_for(query)
        execute = super().execute_query if reader is None else reader.execute_query
        return cast("tuple[int, Sequence[dict[str, Any]]]", await execute(query, values))

    async def execute_query_dict(
        self, query: str, values: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        reader = self._reader_for(query)
        execute = super().execute_query_dict if reader is None else reader.execute_query_dict
        return cast("list[dict[str, Any]]", await execute(query, values))

    def _reader_for(self, query: str) -> _Reader | None:
        """A reader that is free, or else the next, for a statement that only reads."""
        if self._connection is None or not _only_reads(query):
            return None
        free = next((reader for reader in self._readers if reader.is_free), self._readers[0])
        self._readers.remove(free)
        self._readers.append(free)
        return free

    def _in_transaction(self) -> TransactionContext:
        return SafeTransactionContext(ImmediateTransaction(self), self._lock)


def _only_reads(query: str) -> bool:
    return query.lstrip()[:7].upper() == "SELECT "


def get_client_class(_info: dict[str, Any]) -> type[Client]:
    return Client

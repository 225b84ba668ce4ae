"""PostgreSQL for Tortoise: connections go back to their pool, and those that refuse to write do not.

After a switchover the connections of a pool may still lead to what is a standby now, and sessions
keep `default_transaction_read_only` as it was when they began. So a refused write has every
connection of the pool made anew.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, cast

import asyncpg
from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper
from tortoise.backends.base.client import (
    ConnectionWrapper,
    NestedTransactionContext,
    PoolConnectionWrapper,
    TransactionalDBClient,
    TransactionContext,
    TransactionContextPooled,
)
from tortoise.connection import get_connections
from tortoise.exceptions import IntegrityError

from remotegpu_core.database.failures import (
    DatabaseUnavailable,
    Trouble,
    WriteHealth,
    failures_told,
    tell_failure,
    trouble_of,
)

#: Seconds to wait for a connection of the pool.
CONNECTION_WAIT: Final = 15.0
#: Seconds between two renewals of the pool's connections.
_RENEWAL: Final = 1.0


async def _acquire(pool: asyncpg.Pool) -> Any:
    """A connection of the pool.

    Raises:
        DatabaseUnavailable: all are in use for too long, or none can be made.
    """
    with failures_told():
        # Not the pool's own timeout: it uses `asyncio.wait_for`, which on Python 3.11 may swallow
        # a cancellation.
        async with asyncio.timeout(CONNECTION_WAIT):
            return await pool.acquire()


class _PooledConnection(PoolConnectionWrapper[asyncpg.Connection]):
    """A connection of the pool for one statement, with failures told."""

    client: "Client"

    async def __aenter__(self) -> asyncpg.Connection:
        with failures_told():
            await self.ensure_connection()
        pool = self.client._pool
        assert pool is not None  # noqa: S101 - there is a connection
        self.connection = await _acquire(pool)
        return cast("asyncpg.Connection", self.connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        trouble = None if error is None else trouble_of(error)
        await self.client.note(trouble)
        with failures_told():
            await super().__aexit__(kind, error, trace)
        tell_failure(error)


class _TransactionsConnection(ConnectionWrapper[asyncpg.Connection]):
    """The connection of a transaction for one statement, with failures told."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        tell_failure(error)


class Transaction(TransactionWrapper):
    """Ends its connection when it does not begin or end as it should.

    Whether a transaction is open on the connection is unknown then: it was lost, or the caller was
    cancelled. The pool makes another connection in its place.
    """

    async def begin(self) -> None:
        with self._ending_on_failure():
            await super().begin()

    async def commit(self) -> None:
        with self._ending_on_failure():
            await super().commit()

    async def rollback(self) -> None:
        with self._ending_on_failure():
            await super().rollback()

    @contextlib.contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            # A deferred constraint: the server rolled the transaction back.
            raise
        except BaseException:
            self._connection.terminate()
            raise

    def acquire_connection(self) -> ConnectionWrapper[asyncpg.Connection]:
        return _TransactionsConnection(self._lock, self)

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(Transaction(self))


class SafeTransactionContext(TransactionContextPooled):
    """Gives the connection back when the transaction cannot begin, and tells failures."""

    async def __aenter__(self) -> TransactionalDBClient:
        parent = cast("Client", self.client._parent)
        with failures_told():
            await self.ensure_connection()
        pool = parent._pool
        assert pool is not None  # noqa: S101 - there is a connection
        self.client._connection = await _acquire(pool)
        try:
            with failures_told():
                await self.client.begin()
        except BaseException:
            # The pool resets a connection that comes back, so nothing stays open on it.
            with failures_told():
                await pool.release(self.client._connection)
            raise
        self.token = get_connections().set(self.connection_name, self.client)
        return self.client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        parent = cast("Client", self.client._parent)
        if isinstance(error, DatabaseUnavailable):
            await parent.note(error.trouble)
        try:
            with failures_told():
                await super().__aexit__(kind, error, trace)
        except DatabaseUnavailable as failure:
            await parent.note(failure.trouble)
            raise


class Client(AsyncpgDBClient):
    """What Tortoise instantiates for the engine `remotegpu_core.database.postgres_engine`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.health = WriteHealth()
        self._renewed_at = -_RENEWAL

    def acquire_connection(self) -> PoolConnectionWrapper[asyncpg.Connection]:
        return _PooledConnection(self, self._pool_init_lock)

    async def note(self, trouble: Trouble | None) -> None:
        """Note how a statement ended; connections that refuse to write are closed when free."""
        if trouble is None:
            return
        self.health.refused(trouble)
        now = time.monotonic()
        if trouble is Trouble.READ_ONLY and self._pool and now - self._renewed_at >= _RENEWAL:
            self._renewed_at = now
            await self._pool.expire_connections()

    def _in_transaction(self) -> TransactionContext:
        return SafeTransactionContext(Transaction(self), self._pool_init_lock)


def get_client_class(_info: dict[str, Any]) -> type[Client]:
    return Client

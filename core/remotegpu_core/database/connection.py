"""Opening, migrating and closing the database of this process."""

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import structlog
import tortoise.context
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext, set_global_context
from tortoise.exceptions import BaseORMException, DBConnectionError
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget

from remotegpu_core.database import former, postgres_engine, sqlite_engine
from remotegpu_core.database.configuration import APP, tortoise_config
from remotegpu_core.database.failures import DatabaseUnavailable, WriteHealth
from remotegpu_core.errors import InvalidInput, Unavailable
from remotegpu_core.settings import Settings

log = structlog.get_logger()

#: One migration at a time on PostgreSQL, whichever replica starts first ("rgpu" in ASCII).
_MIGRATION_LOCK = 0x72677075

_CANNOT_OPEN = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    BaseORMException,
    sqlite3.Error,
)


class Database:
    """The one database of this process.

    Tortoise finds it through a process-wide context, since requests run in tasks that the server
    makes, so a process has one open at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = tortoise_config(settings)
        self._context: TortoiseContext | None = None

    @property
    def is_sqlite(self) -> bool:
        return self._settings.database_url is None

    @property
    def health(self) -> WriteHealth:
        """Whether it takes changes; `written` is told of one that comes every few seconds."""
        client = get_connection("default")
        assert isinstance(client, sqlite_engine.Client | postgres_engine.Client)  # noqa: S101 - by `configuration`
        return client.health

    async def open(self) -> None:
        """Connect.

        Raises:
            InvalidInput: the directory cannot be used, or the URL names no database.
            Unavailable: the server does not answer.
        """
        if self.is_sqlite:
            prepare_directory(self._settings.data_dir)
            _make_private(self._settings.sqlite_path)
        context = TortoiseContext()
        set_global_context(context)
        self._context = context
        try:
            await context.init(config=self._config)
            await context.db().execute_query("SELECT 1")
        except _CANNOT_OPEN as error:
            await self.close()
            raise self._explain(error) from error
        except DatabaseUnavailable as error:
            await self.close()
            cause = error.__cause__
            raise self._explain(cause if isinstance(cause, Exception) else error) from error
        except BaseException:
            await self.close()
            raise

    async def migrate(self) -> list[str]:
        """Bring the schema to today's shape and return the migrations that were applied.

        Raises:
            InvalidInput: another version of RemoteGPU made the database.
        """
        client = get_connection("default")
        applied: list[str] = []

        def progress(event: str, _app: str, name: str) -> None:
            if event == "apply_done":
                applied.append(name)

        async with self._one_at_a_time(client):
            executor = MigrationExecutor(client, self._config["apps"])
            await former.adopt(executor)
            await executor.migrate(
                [MigrationTarget(APP, "__latest__")], direction="forward", progress=progress
            )
        return applied

    async def pending_migrations(self) -> list[str]:
        """Names of the migrations that are not applied yet.

        Raises:
            InvalidInput: another version of RemoteGPU made the database.
        """
        executor = MigrationExecutor(get_connection("default"), self._config["apps"])
        await former.check(executor)
        plan = await executor.plan([MigrationTarget(APP, "__latest__")])
        return [step.migration.name for step in plan]

    async def close(self) -> None:
        context, self._context = self._context, None
        # Tortoise keeps statements by the connection's name, in the dialect of its first database.
        EXECUTOR_CACHE.clear()
        if context is not None:
            await context.close_connections()
            if tortoise.context._global_context is context:
                tortoise.context._global_context = None

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, client: BaseDBAsyncClient) -> AsyncIterator[None]:
        if self.is_sqlite:
            # Only one server uses an SQLite file, see `single_server`.
            yield
            return
        # On a connection of its own: the executor runs into errors that would spoil a transaction.
        async with client.acquire_connection() as connection:
            if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_MIGRATION_LOCK})"):
                log.warning(
                    "database.migration_waits",
                    reason="another process is migrating this database",
                    effect="this one starts when that one has finished",
                )
                await connection.execute(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
                log.info("database.migration_goes_on")
            try:
                yield
            finally:
                await connection.execute(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})")

    def _explain(self, error: Exception) -> InvalidInput | Unavailable:
        if self.is_sqlite:
            return InvalidInput(
                f"Could not open the database {self._settings.sqlite_path}: {error}. Check the "
                "file and its permissions, or choose another REMOTEGPU_DATA_DIR."
            )
        if isinstance(
            error, OSError | asyncpg.CannotConnectNowError | asyncpg.TooManyConnectionsError
        ) and not isinstance(error, DBConnectionError):
            # Tortoise's own error of this kind means that there is no such database.
            return Unavailable(
                "Could not reach the database of REMOTEGPU_DATABASE_URL: "
                f"{type(error).__name__}: {error}. Is PostgreSQL running there?"
            )
        return InvalidInput(f"PostgreSQL refused REMOTEGPU_DATABASE_URL: {error}.")


def prepare_directory(path: Path) -> None:
    """Make the state directory, readable by its owner only.

    Raises:
        InvalidInput: it cannot be made or written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        # Another process may be probing at the same time.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"Cannot write to the state directory {path}: {error.strerror}. Choose another with "
            "REMOTEGPU_DATA_DIR (make demo: DATA=), or mend its permissions."
        ) from None


def _make_private(path: Path) -> None:
    """Make the file before SQLite does, which would let everybody read it.

    Its journal and shared memory take its mode. One that is there keeps what it was given.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

"""Opening, migrating and closing the database of this process."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import tortoise.context
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext, set_global_context
from tortoise.exceptions import BaseORMException, DBConnectionError
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget
from tortoise.transactions import in_transaction

from remotegpu_core.database.configuration import APP, tortoise_config
from remotegpu_core.errors import InvalidInput, Unavailable
from remotegpu_core.settings import Settings

#: One migration at a time on PostgreSQL, whichever replica starts first ("rgpu" in ASCII).
_MIGRATION_LOCK = 0x72677075


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

    async def open(self) -> None:
        """Connect.

        Raises:
            InvalidInput: the directory cannot be used, or the URL names no database.
            Unavailable: the server does not answer.
        """
        if self.is_sqlite:
            prepare_directory(self._settings.data_dir)
        context = TortoiseContext()
        set_global_context(context)
        self._context = context
        try:
            await context.init(config=self._config)
            await context.db().execute_query("SELECT 1")
        except (OSError, asyncpg.PostgresError, BaseORMException, sqlite3.Error) as error:
            await self.close()
            raise self._explain(error) from error

    async def migrate(self) -> list[str]:
        """Bring the schema to today's shape and return the migrations that were applied."""
        client = get_connection("default")
        applied: list[str] = []

        def progress(event: str, _app: str, name: str) -> None:
            if event == "apply_done":
                applied.append(name)

        async with self._one_at_a_time(client):
            executor = MigrationExecutor(client, self._config["apps"])
            await executor.migrate(
                [MigrationTarget(APP, "__latest__")], direction="forward", progress=progress
            )
        return applied

    async def pending_migrations(self) -> list[str]:
        """Names of the migrations that are not applied yet."""
        executor = MigrationExecutor(get_connection("default"), self._config["apps"])
        plan = await executor.plan([MigrationTarget(APP, "__latest__")])
        return [step.migration.name for step in plan]

    async def close(self) -> None:
        context, self._context = self._context, None
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
        async with in_transaction("default") as transaction:
            await transaction.execute_query(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            yield

    def _explain(self, error: Exception) -> InvalidInput | Unavailable:
        if self.is_sqlite:
            return InvalidInput(
                f"Could not open the database {self._settings.sqlite_path}: {error}. Check the "
                "file and its permissions, or choose another REMOTEGPU_DATA_DIR."
            )
        if isinstance(error, OSError | DBConnectionError) and not isinstance(
            error, asyncpg.InvalidCatalogNameError
        ):
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
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"Cannot write to the state directory {path}: {error.strerror}. Choose another with "
            "REMOTEGPU_DATA_DIR (make demo: DATA=), or mend its permissions."
        ) from None

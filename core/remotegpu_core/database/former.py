"""Databases that another version of RemoteGPU made."""

from typing import Final

import structlog
from tortoise.migrations.executor import MigrationExecutor

from remotegpu_core.database.configuration import APP
from remotegpu_core.errors import InvalidInput

_log = structlog.get_logger()

#: The last of the seventeen migrations that became `BEGINNING`: with it, a schema is the same.
LAST_FORMER: Final = "0017_capacity"
BEGINNING: Final = ("0001_initial", "0002_rules")


async def check(executor: MigrationExecutor) -> set[str]:
    """The names of the migrations that the database has.

    Raises:
        InvalidInput: it has some that this version does not know.
    """
    await executor.loader.build_graph()
    known = {key.name for key in executor.loader.graph.nodes if key.app_label == APP}
    applied = {key.name for key in await executor.recorder.applied_migrations()}
    unknown = sorted(applied - known)
    if unknown and LAST_FORMER not in applied:
        raise InvalidInput(
            "Another version of RemoteGPU made this database: it has the migration "
            f"{unknown[-1]}, which this version does not know. Start that version with it, or "
            "this one with another database (REMOTEGPU_DATA_DIR or REMOTEGPU_DATABASE_URL)."
        )
    return applied


async def adopt(executor: MigrationExecutor) -> None:
    """Have a database with all of the former migrations count as one with the beginning.

    Raises:
        InvalidInput: as `check`.
    """
    applied = await check(executor)
    if LAST_FORMER not in applied:
        return
    for name in BEGINNING:
        if name not in applied:
            await executor.recorder.record_applied(APP, name)
    known = {key.name for key in executor.loader.graph.nodes if key.app_label == APP}
    for name in sorted(applied - known):
        await executor.recorder.record_unapplied(APP, name)
    _log.info("database.adopted", former=LAST_FORMER, now=BEGINNING[-1])

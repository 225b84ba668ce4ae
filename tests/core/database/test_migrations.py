import sys
import uuid
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import asyncpg
import pytest
from tortoise.connection import get_connection
from tortoise.migrations.autodetector import MigrationAutodetector
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget
from tortoise.migrations.recorder import MigrationRecorder

from remotegpu_core import migrations
from remotegpu_core.clock import now_ms
from remotegpu_core.database.configuration import APP
from remotegpu_core.database.connection import _MIGRATION_LOCK, Database
from remotegpu_core.database.former import BEGINNING, LAST_FORMER
from remotegpu_core.errors import InvalidInput
from remotegpu_core.models import Machine, User, Version
from remotegpu_core.settings import Settings
from tests.core.database.test_constraints import insert
from tests.core.people import make_user

#: In their order.
NAMES = sorted(path.stem for path in Path(migrations.__file__).parent.glob("0*.py"))

MIGRATE = """
import asyncio, sys
from remotegpu_core.database.connection import Database
from remotegpu_core.settings import load_settings

async def main():
    database = Database(load_settings(database_url=sys.argv[1]))
    await database.open()
    try:
        print("applied", *await database.migrate())
    finally:
        await database.close()

asyncio.run(main())
"""


async def test_from_empty_and_then_nothing_is_left(empty_settings: Settings) -> None:
    database = Database(empty_settings)
    await database.open()
    try:
        assert await database.pending_migrations() == NAMES
        assert await database.migrate() == NAMES
        assert await database.pending_migrations() == []
        assert await database.migrate() == []
        assert {row.name: row.value for row in await Version.all()} == {
            "access": 0,
            "machine_changes": 0,
            "commands": 0,
            "operations": 0,
            "allocations": 0,
        }
    finally:
        await database.close()


@pytest.mark.parametrize("before", NAMES[1:])
async def test_from_versions_before_with_rows_in_them(
    empty_settings: Settings, before: str
) -> None:
    database = Database(empty_settings)
    await database.open()
    try:
        executor = MigrationExecutor(get_connection("default"), database._config["apps"])
        await executor.migrate([MigrationTarget(APP, before)], direction="forward")
        user = await make_user("alice")
        # By SQL: the model of today has more columns.
        machine_id = uuid.uuid4()
        await insert(
            "machine",
            id=machine_id,
            name="node-1",
            name_key="node-1",
            public_key="x" * 32,
            epoch=3,
            presence="ONLINE",
            lifecycle="IN_SERVICE",
            health="HEALTHY",
            health_reasons="[]",
            host="{}",
            created_at=1,
        )

        assert await database.migrate() == NAMES[NAMES.index(before) + 1 :]
        assert (await User.get(id=user.id)).username == "alice"
        machine = await Machine.get(id=machine_id)
        assert (machine.name, machine.epoch, machine.former_boot_ids) == (
            "node-1",
            3,
            None,
        )
        assert (machine.draining, machine.event_sequence) == (False, 0)
    finally:
        await database.close()


async def test_models_and_migrations_agree(database: Database) -> None:
    assert database._context is not None
    apps = database._context.apps
    assert apps is not None
    writers = await MigrationAutodetector(apps, database._config["apps"]).changes()
    found = [
        f"{type(operation).__name__} {vars(operation)}"
        for writer in writers
        for operation in writer.operations
    ]
    assert found == []


async def test_two_processes_that_migrate_at_once_apply_each_migration_once(
    postgres_url: str,
) -> None:
    processes = [
        await create_subprocess_exec(
            sys.executable, "-c", MIGRATE, postgres_url, stdout=PIPE, stderr=PIPE
        )
        for _ in range(2)
    ]
    outcomes = [await process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outcomes
    # What the one that waited says about it comes before.
    lines = [out.decode().splitlines()[-1].split() for out, _ in outcomes]
    assert sorted(lines) == [["applied"], ["applied", *NAMES]]


async def test_a_migration_that_waits_for_another_says_so(postgres_url: str) -> None:
    other = await asyncpg.connect(postgres_url)
    await other.execute(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
    waiting = await create_subprocess_exec(
        sys.executable, "-c", MIGRATE, postgres_url, stdout=PIPE, stderr=STDOUT
    )
    assert waiting.stdout is not None
    assert b"migration_waits" in await waiting.stdout.readline()
    await other.close()
    rest, _ = await waiting.communicate()
    assert b"migration_goes_on" in rest
    assert NAMES[-1].encode() in rest


@pytest.mark.parametrize("empty_settings", ["postgres"], indirect=True)
async def test_a_pool_of_one_connection_can_migrate(empty_settings: Settings) -> None:
    # The lock is held on a connection of its own while migrations run on another.
    database = Database(
        empty_settings.model_copy(
            update={"database_url": f"{empty_settings.database_url}?maxsize=1"}
        )
    )
    await database.open()
    try:
        assert await database.migrate() == NAMES
        await User.create(
            username="a", username_key="a", password_hash="x", role="USER", created_at=now_ms()
        )
    finally:
        await database.close()


async def test_a_database_of_before_the_migrations_were_one(database: Database) -> None:
    client = get_connection("default")
    await client.execute_query("DELETE FROM tortoise_migrations WHERE name = '0002_rules'")
    former = ["0002_constraints", "0016_pinned_hosts", LAST_FORMER]
    recorder = MigrationRecorder(client)
    for name in former:
        await recorder.record_applied(APP, name)

    assert await database.migrate() == []
    assert BEGINNING[-1] in {key.name for key in await recorder.applied_migrations()}
    assert await database.pending_migrations() == []
    # Of one that had not all of them, and of a newer version, nothing is known.
    for name in ("0016_pinned_hosts", "9999_of_tomorrow"):
        await recorder.record_applied(APP, name)
        for ask in (database.migrate, database.pending_migrations):
            with pytest.raises(InvalidInput, match=f"it has the migration {name}, which"):
                await ask()
        await recorder.record_unapplied(APP, name)
    assert await database.migrate() == []


async def test_every_constraint_that_a_model_names_is_in_the_database(database: Database) -> None:
    assert database._context is not None
    assert database._context.apps is not None
    named = {
        constraint.name
        for model in database._context.apps[APP].values()
        for constraint in model._meta.constraints
    }
    catalogue = (
        "SELECT sql AS name FROM sqlite_master WHERE type = 'table'"
        if database.is_sqlite
        else "SELECT conname AS name FROM pg_constraint"
    )
    rows = await get_connection("default").execute_query_dict(catalogue)
    found = "\n".join(str(row["name"]) for row in rows)
    assert len(named) > 10
    assert {name for name in named if name not in found} == set()

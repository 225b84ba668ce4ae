import json
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

from remotegpu_core import migrations
from remotegpu_core.clock import now_ms
from remotegpu_core.database.configuration import APP
from remotegpu_core.database.connection import _MIGRATION_LOCK, Database
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine, MachineAddress, User, Version
from remotegpu_core.services import quarantine
from remotegpu_core.services.addresses.claims import arrange
from remotegpu_core.services.addresses.quarantine import settle
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


@pytest.mark.parametrize("before", NAMES[1:-1])
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


async def test_addresses_that_hosts_shared_before_they_were_compared(
    empty_settings: Settings,
) -> None:
    """The oldest has it; nobody is taken out of service by an update."""
    database = Database(empty_settings)
    await database.open()
    try:
        executor = MigrationExecutor(get_connection("default"), database._config["apps"])
        target = MigrationTarget(APP, NAMES[NAMES.index("0009_addresses") - 1])
        await executor.migrate([target], direction="forward")
        common = {"presence": "ONLINE", "health": "HEALTHY", "health_reasons": "[]", "epoch": 1}
        ids = {name: uuid.uuid4() for name in ("younger", "older", "elsewhere", "retired", "new")}
        for name, host, created_at in (
            ("younger", ["10.0.0.7", "::ffff:8.8.8.8"], 3),
            ("older", ["10.0.0.7", "8.8.8.8", "010.0.0.1", "fe80::1"], 2),
            ("elsewhere", ["10.0.0.7"], 4),
            ("retired", ["10.0.0.7"], 1),
            ("new", None, 5),
        ):
            said = [{"address": address, "kind": "ADDITIONAL"} for address in host or []]
            await insert(
                "machine",
                id=ids[name],
                name=name,
                name_key=name,
                public_key="x" * 32,
                lifecycle="RETIRED" if name == "retired" else "IN_SERVICE",
                host="{}" if host is None else json.dumps({"hostname": name, "addresses": said}),
                created_at=created_at,
                **common,
            )
        await insert(
            "machine_label", id=uuid.uuid4(), machine_id=ids["elsewhere"], key="site", value="north"
        )
        await database.migrate()
        rows = await MachineAddress.all().order_by("address").select_related("machine")
        found = {(row.machine.name, row.scope, row.address): row for row in rows}
        assert {key: row.held for key, row in found.items()} == {
            ("older", "site:", "10.0.0.7"): True,
            ("older", "", "8.8.8.8"): True,
            ("younger", "site:", "10.0.0.7"): False,
            ("younger", "", "8.8.8.8"): False,
            ("elsewhere", "site:north", "10.0.0.7"): True,
        }
        assert all(row.held is (row.accepted_at is None) for row in rows)
        assert await settle() == 0
        assert await Machine.filter(lifecycle="IN_SERVICE").count() == 4
        # What hosts say again changes nothing.
        for name in ("younger", "older"):
            machine = await Machine.get(id=ids[name])
            async with transaction():
                assert await arrange(machine.id, machine.host) is False
    finally:
        await database.close()


async def test_quarantines_from_before_they_had_causes(empty_settings: Settings) -> None:
    """None ends by an update, and what was forgotten of a failed cleaning is quarantined again."""
    database = Database(empty_settings)
    await database.open()
    try:
        executor = MigrationExecutor(get_connection("default"), database._config["apps"])
        target = MigrationTarget(APP, NAMES[NAMES.index("0013_quarantine_causes") - 1])
        await executor.migrate([target], direction="forward")
        user = await make_user("alice")
        cloned = "Two hosts use this key: ..."
        for name, lifecycle, reason, hold in (
            ("dirty", "IN_SERVICE", None, None),
            ("cleaning", "IN_SERVICE", None, None),
            ("cloned", "QUARANTINED", cloned, cloned),
            ("held", "IN_SERVICE", None, "The journal of commands is not the one ..."),
            ("unknown", "QUARANTINED", "Somebody said so.", None),
            ("retired", "RETIRED", None, cloned),
        ):
            machine_id = uuid.uuid4()
            await insert(
                "machine",
                id=machine_id,
                name=name,
                name_key=name,
                public_key="x" * 32,
                presence="ONLINE",
                health="HEALTHY",
                health_reasons="[]",
                epoch=1,
                host="{}",
                created_at=1,
                lifecycle=lifecycle,
                lifecycle_reason=reason,
                command_hold=hold,
            )
            if name not in {"dirty", "cleaning"}:
                continue
            allocation_id = uuid.uuid4()
            await insert(
                "allocation",
                id=allocation_id,
                state="RECLAIMING",
                user_id=user.id,
                machine_id=machine_id,
                whole_machine=True,
                gpu_count=0,
                queued=False,
                starts_at=1,
                ends_at=2,
                generation=1,
                created_at=1,
            )
            if name == "cleaning":
                await insert(
                    "command",
                    id=uuid.uuid4(),
                    machine_id=machine_id,
                    sequence=1,
                    kind="allocation.end",
                    arguments="{}",
                    deadline=9,
                    allocation_id=allocation_id,
                    generation=1,
                    state="SENT",
                    created_at=1,
                )
        await database.migrate()
        rows = await Machine.all().order_by("name")
        causes = await quarantine.causes_of([row.id for row in rows])
        assert {row.name: (row.lifecycle, [c.code for c in causes[row.id]]) for row in rows} == {
            "cleaning": ("IN_SERVICE", []),
            "cloned": ("QUARANTINED", ["HOST_CLONED"]),
            "dirty": ("QUARANTINED", ["CLEANING_FAILED"]),
            "held": ("QUARANTINED", ["JOURNAL_UNKNOWN"]),
            "retired": ("RETIRED", []),
            "unknown": ("QUARANTINED", ["OTHER"]),
        }
    finally:
        await database.close()

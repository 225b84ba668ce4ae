"""A database that was migrated without copies of the models is as one that was with them."""

from pathlib import Path

import pytest
import tortoise.migrations
from tortoise.connection import get_connection
from tortoise.migrations import operations as ops
from tortoise.migrations.schema_editor import SqliteSchemaEditor
from tortoise.migrations.schema_generator.state import State
from tortoise.migrations.schema_generator.state_apps import StateApps

from remotegpu_core.database.connection import Database
from remotegpu_core.database.migration import Migration
from remotegpu_core.settings import load_settings


async def schema(directory: Path) -> list[tuple[str, str]]:
    database = Database(load_settings(data_dir=directory))
    await database.open()
    try:
        await database.migrate()
        rows = await get_connection("default").execute_query_dict(
            "SELECT name, sql FROM sqlite_master ORDER BY name"
        )
    finally:
        await database.close()
    return [(row["name"], row["sql"]) for row in rows]


async def test_without_copies_nothing_is_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[State] = []
    original = State.clone

    def clone(state: State) -> State:
        copies.append(state)
        return original(state)

    monkeypatch.setattr(State, "clone", clone)
    without = await schema(tmp_path / "without")
    assert copies == []
    monkeypatch.setattr(Migration, "apply", tortoise.migrations.Migration.apply)
    assert await schema(tmp_path / "with") == without
    assert copies
    assert len(without) > 50


class Compares(ops.Operation):
    """Keeps what it is given to compare."""

    reversible = False

    def __init__(self) -> None:
        self.seen: list[tuple[State, State]] = []

    def state_forward(self, app_label: str, state: State) -> None:
        pass

    async def database_forward(
        self, app_label: str, old_state: State, new_state: State, state_editor: object = None
    ) -> None:
        self.seen.append((old_state, new_state))


async def test_an_operation_that_compares_has_its_copies(tmp_path: Path) -> None:
    database = Database(load_settings(data_dir=tmp_path / "state"))
    await database.open()
    try:
        migration = Migration("0001_test", "test")
        compares = Compares()
        migration.operations = [compares]
        state = State({}, StateApps())
        editor = SqliteSchemaEditor(get_connection("default"), atomic=False)
        assert await migration.apply(state, schema_editor=editor) is state
    finally:
        await database.close()
    [(old, new)] = compares.seen
    assert new is state
    assert old is not state

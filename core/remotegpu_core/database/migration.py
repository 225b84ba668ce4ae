"""A migration that an empty database takes in a third of the time."""

from collections.abc import Iterable
from typing import Any, Final

from tortoise import migrations
from tortoise.indexes import Index
from tortoise.migrations import operations as ops
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State
from tortoise.models import Model


class _WithoutReload(State):
    """Takes note of a changed model, and does not make the model's class anew."""

    def reload_model(self, app_label: str, model_name: str) -> None:
        pass


class CreateModel(ops.CreateModel):
    """Tortoise's own, with the constraints of the model, which that one leaves out of the table."""

    async def database_forward(
        self,
        app_label: str,
        old_state: State,
        new_state: State,
        state_editor: BaseSchemaEditor | None = None,
    ) -> None:
        if state_editor is None:
            return
        model = new_state.apps.get_model(f"{app_label}.{self.name}")
        inner = state_editor._get_inner_statements
        lines = [
            _constraint(state_editor, model, constraint)
            for constraint in (self.options or {}).get("constraints", ())
        ]
        state_editor._get_inner_statements = lambda: [*inner(), *lines]  # type: ignore[method-assign]  # no other way in
        try:
            await state_editor.create_model(model)
        finally:
            state_editor._get_inner_statements = inner  # type: ignore[method-assign]


def _constraint(
    editor: BaseSchemaEditor, model: type[Model], constraint: CheckConstraint | UniqueConstraint
) -> str:
    if isinstance(constraint, CheckConstraint):
        return editor.CHECK_CONSTRAINT_CREATE_TEMPLATE.format(
            name=constraint.name, check=constraint.check
        )
    columns = editor._resolve_fields_to_columns(model, constraint.fields)
    return editor.UNIQUE_CONSTRAINT_CREATE_TEMPLATE.format(
        index_name=constraint.name, fields=", ".join(map(editor.quote, columns))
    )


class AddIndexes(ops.TortoiseOperation):
    """Several `AddIndex`. Each of those makes its model and all related ones anew: 50 ms."""

    def __init__(self, indexes: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        self._adds = [ops.AddIndex(model, Index(fields=columns)) for model, columns in indexes]

    def describe(self) -> str:
        return f"Add {len(self._adds)} indexes"

    def state_forward(self, app_label: str, state: State) -> None:
        noting = _WithoutReload(state.models, state.apps)
        for add in self._adds:
            add.state_forward(app_label, noting)
        state.reload_models({(app_label, add.model_name) for add in self._adds})

    async def database_forward(self, *arguments: Any, **options: Any) -> None:
        for add in self._adds:
            await add.database_forward(*arguments, **options)

    async def database_backward(self, *arguments: Any, **options: Any) -> None:
        for add in reversed(self._adds):
            await add.database_backward(*arguments, **options)


#: Operations that do not ask how the models were before them.
_FORWARD: Final = (
    AddIndexes,
    ops.CreateModel,
    ops.AddField,
    ops.AddConstraint,
    ops.AddIndex,
    ops.RunSQL,
    ops.RunPython,
)


class _OneState(State):
    """The models as they are now, also for who asks how they were."""

    def clone(self) -> State:
        return self


class Migration(migrations.Migration):
    """Without a copy of all models, with their relations and queries, before each operation.

    Tortoise makes one so that an operation may compare: most of the three seconds that an empty
    database took. One that has an operation which does compare gets its copies.
    """

    async def apply(self, state: State, **options: Any) -> State:
        if not all(isinstance(operation, _FORWARD) for operation in self.operations):
            return await super().apply(state, **options)
        # The same dictionaries: what the operations change in them is changed for the caller.
        await super().apply(_OneState(state.models, state.apps), **options)
        return state

"""Raw SQL in migrations that differs between the two databases."""

from collections.abc import Sequence
from typing import Any

from tortoise.migrations.operations import RunSQL


class RunSQLByDialect(RunSQL):
    """Statements for each database, one by one.

    Not one text with several: Tortoise's SQLite editor splits a text at every semicolon, those in
    the body of a trigger too, and runs statements given as a sequence as they are.
    """

    def __init__(
        self,
        *,
        sqlite: Sequence[str],
        postgres: Sequence[str],
        reverse_sqlite: Sequence[str],
        reverse_postgres: Sequence[str],
    ) -> None:
        super().__init__(sql=list(sqlite), reverse_sql=list(reverse_sqlite))
        self._postgres = (list(postgres), list(reverse_postgres))

    async def _run_sql(self, state_editor: Any, sqls: Any) -> None:
        if state_editor.client.capabilities.dialect != "sqlite":
            sqls = self._postgres[0 if sqls is self.sql else 1]
        for sql in sqls:
            if state_editor.collect_sql:
                state_editor.collected_sql.append(sql)
            else:
                await state_editor.client.execute_query(sql)

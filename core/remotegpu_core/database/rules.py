"""Rules that the database holds whatever the code does, as triggers of both databases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from remotegpu_core.database.dialects import RunSQLByDialect


@dataclass(frozen=True)
class Rule:
    """`forbidden`: what a change of `table` may not be, in SQL that both databases take. `event` is
    INSERT, DELETE, UPDATE or UPDATE OF a column."""

    name: str
    table: str
    event: str
    forbidden: str

    def sqlite(self) -> str:
        return (
            f"CREATE TRIGGER {self.name} BEFORE {self.event} ON {self.table} "
            f"WHEN {self.forbidden} BEGIN SELECT RAISE(ABORT, '{self.name}'); END"
        )

    def postgres(self) -> Iterable[str]:
        row = "OLD" if self.event == "DELETE" else "NEW"
        yield (
            f"CREATE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {self.forbidden} THEN RAISE EXCEPTION '{self.name}' "
            f"USING ERRCODE = 'check_violation'; END IF; RETURN {row}; END $$"
        )
        yield (
            f"CREATE TRIGGER {self.name} BEFORE {self.event} ON {self.table} "
            f"FOR EACH ROW EXECUTE FUNCTION {self.name}()"
        )


def add_rules(rules: Sequence[Rule]) -> RunSQLByDialect:
    """The operation of a migration that has the database hold these rules."""
    return RunSQLByDialect(
        sqlite=[rule.sqlite() for rule in rules],
        reverse_sqlite=[f"DROP TRIGGER {rule.name}" for rule in reversed(rules)],
        postgres=[statement for rule in rules for statement in rule.postgres()],
        reverse_postgres=[
            statement
            for rule in reversed(rules)
            for statement in (
                f"DROP TRIGGER {rule.name} ON {rule.table}",
                f"DROP FUNCTION {rule.name}()",
            )
        ],
    )

from typing import Any

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from remotegpu_core.clock import now_ms
from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect
from remotegpu_core.database.rules import Rule, add_rules
from remotegpu_core.ids import new_id

_COLUMNS = "id, machine_id, allocation_id, code, message, since"

#: What is to be cleaned and is not being cleaned: its cleaning failed, whatever is still known of that.
_UNCLEAN = """
SELECT allocation.id AS id, allocation.machine_id AS machine_id, (
    SELECT error_message FROM operation
    WHERE operation.allocation_id = allocation.id AND operation.kind = 'release'
    AND error_message IS NOT NULL ORDER BY operation.id DESC LIMIT 1
) AS message
FROM allocation
WHERE allocation.state = 'RECLAIMING' AND NOT EXISTS (
    SELECT 1 FROM command
    WHERE command.allocation_id = allocation.id AND command.kind = 'allocation.end'
    AND command.state IN ('QUEUED', 'SENT', 'ACCEPTED', 'RUNNING')
)
ORDER BY allocation.id
"""
_CONTESTED = """
SELECT machine_id AS id, MIN(address) AS address FROM machine_address
WHERE NOT held AND accepted_at IS NULL GROUP BY machine_id
"""
_HELD = (
    "SELECT id, command_hold FROM machine WHERE command_hold IS NOT NULL AND lifecycle <> 'RETIRED'"
)
_LEFT = """
SELECT id, lifecycle_reason FROM machine WHERE lifecycle = 'QUARANTINED'
AND NOT EXISTS (SELECT 1 FROM quarantine_cause WHERE machine_id = machine.id)
"""


async def fill(_apps: object, editor: Any) -> None:
    """Causes of the quarantines and holds that there are; no quarantine ends by an update."""
    client = editor.client
    sqlite = client.capabilities.dialect == "sqlite"
    marks = ", ".join("?" if sqlite else f"${number}" for number in range(1, 7))
    insert = f"INSERT INTO quarantine_cause ({_COLUMNS}) VALUES ({marks})"  # noqa: S608 - columns of ours

    async def add(machine_id: object, allocation_id: object, code: str, message: str) -> None:
        row_id = new_id()
        await client.execute_query(
            insert,
            [
                str(row_id) if sqlite else row_id,
                machine_id,
                allocation_id,
                code,
                message[:500],
                now_ms(),
            ],
        )

    for row in await client.execute_query_dict(_UNCLEAN):
        message = row["message"] or "Cleaning failed, and its record is no longer kept."
        await add(row["machine_id"], row["id"], "CLEANING_FAILED", message)
    for row in await client.execute_query_dict(_CONTESTED):
        message = f"Another machine has an address of this one: {row['address']}."
        await add(row["id"], None, "ADDRESS_CONFLICT", message)
    for row in await client.execute_query_dict(_HELD):
        message = row["command_hold"]
        cloned, behind = message.startswith("Two hosts use"), "is older than" in message
        code = "HOST_CLONED" if cloned else "JOURNAL_BEHIND" if behind else "JOURNAL_UNKNOWN"
        await add(row["id"], None, code, message)
    for row in await client.execute_query_dict(_LEFT):
        message = row["lifecycle_reason"] or "It was quarantined, and no reason was kept."
        await add(row["id"], None, "OTHER", message)
    await client.execute_query(
        "UPDATE machine SET lifecycle = 'QUARANTINED', lifecycle_reason = "
        "(SELECT MIN(message) FROM quarantine_cause WHERE machine_id = machine.id) "
        "WHERE lifecycle = 'IN_SERVICE' "
        "AND EXISTS (SELECT 1 FROM quarantine_cause WHERE machine_id = machine.id)"
    )


_INDEX = (
    "CREATE UNIQUE INDEX quarantine_cause_once ON quarantine_cause "
    "(machine_id, code, COALESCE(gpu_id, {none}), COALESCE(allocation_id, {none}))"
)
_NOBODY = "'00000000-0000-0000-0000-000000000000'"

_RULES = (
    Rule(
        "in_service_without_cause",
        "machine",
        "UPDATE OF lifecycle",
        "NEW.lifecycle = 'IN_SERVICE' "
        "AND EXISTS (SELECT 1 FROM quarantine_cause WHERE machine_id = NEW.id)",
    ),
    Rule(
        "cause_takes_out_of_service",
        "quarantine_cause",
        "INSERT",
        "EXISTS (SELECT 1 FROM machine WHERE id = NEW.machine_id AND lifecycle = 'IN_SERVICE')",
    ),
    Rule(
        "cause_stays_what_it_is",
        "quarantine_cause",
        "UPDATE",
        "NEW.machine_id <> OLD.machine_id OR NEW.code <> OLD.code "
        f"OR COALESCE(NEW.allocation_id, {_NOBODY}) <> COALESCE(OLD.allocation_id, {_NOBODY})",
    ),
    Rule(
        "cleaning_failed_until_receipt",
        "quarantine_cause",
        "DELETE",
        "OLD.code = 'CLEANING_FAILED' AND EXISTS (SELECT 1 FROM allocation "
        "WHERE id = OLD.allocation_id AND state = 'RECLAIMING')",
    ),
)


class Migration(migration.Migration):
    """Why machines are quarantined, one row for each cause."""

    dependencies = [("remotegpu", "0012_clock")]

    initial = False

    operations = [
        ops.CreateModel(
            name="QuarantineCause",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="causes",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "gpu",
                    fields.ForeignKeyField(
                        "remotegpu.Gpu",
                        source_field="gpu_id",
                        null=True,
                        description="The GPU that it is about, null when it is about the host.",
                        db_constraint=True,
                        to_field="id",
                        related_name="causes",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        null=True,
                        description="The allocation that could not be cleaned.",
                        db_constraint=True,
                        to_field="id",
                        related_name="causes",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "code",
                    fields.CharField(
                        description="One of `services.quarantine.CauseCode`.", max_length=32
                    ),
                ),
                (
                    "message",
                    fields.CharField(
                        description="What is wrong, for everybody who sees the machine.",
                        max_length=500,
                    ),
                ),
                (
                    "since",
                    fields.BigIntField(
                        description="When it began, in milliseconds since the Unix epoch. A new message changes nothing in it."
                    ),
                ),
            ],
            options={
                "table": "quarantine_cause",
                "app": "remotegpu",
                "indexes": [Index(fields=["gpu_id"]), Index(fields=["allocation_id"])],
                "pk_attr": "id",
                "table_description": "One reason to keep a machine out of use. `services.quarantine` alone writes these rows.",
            },
            bases=["Model"],
        ),
        RunSQLByDialect(
            sqlite=[_INDEX.format(none=_NOBODY)],
            reverse_sqlite=["DROP INDEX quarantine_cause_once"],
            postgres=[_INDEX.format(none=f"{_NOBODY}::uuid")],
            reverse_postgres=["DROP INDEX quarantine_cause_once"],
        ),
        ops.RunPython(fill, ops.RunPython.noop),
        add_rules(_RULES),
    ]

from typing import Final

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect

_ADD: Final = """
INSERT INTO gpu_group (machine_id, model, memory_total, gpus, usable)
VALUES (NEW.machine_id, NEW.model, COALESCE(NEW.memory_total, 0),
    CASE WHEN NEW.removed_at IS NULL THEN 1 ELSE 0 END,
    CASE WHEN NEW.removed_at IS NULL AND NEW.health <> 'UNHEALTHY' THEN 1 ELSE 0 END)
ON CONFLICT (machine_id, model, memory_total) DO UPDATE SET
    gpus = gpu_group.gpus + excluded.gpus, usable = gpu_group.usable + excluded.usable;
"""
_TAKE: Final = """
UPDATE gpu_group SET
    gpus = gpus - CASE WHEN OLD.removed_at IS NULL THEN 1 ELSE 0 END,
    usable = usable
        - CASE WHEN OLD.removed_at IS NULL AND OLD.health <> 'UNHEALTHY' THEN 1 ELSE 0 END
WHERE machine_id = OLD.machine_id AND model = OLD.model
    AND memory_total = COALESCE(OLD.memory_total, 0);
"""
_FILL: Final = """
INSERT INTO gpu_group (machine_id, model, memory_total, gpus, usable)
SELECT machine_id, model, COALESCE(memory_total, 0), COUNT(*),
    SUM(CASE WHEN health <> 'UNHEALTHY' THEN 1 ELSE 0 END)
FROM gpu WHERE removed_at IS NULL GROUP BY machine_id, model, COALESCE(memory_total, 0)
"""
_COUNTED: Final = "machine_id, model, memory_total, health, removed_at"


class Migration(migration.Migration):
    """What a search for free GPUs asks of every machine is there to be read in one place."""

    dependencies = [("remotegpu", "0016_pinned_hosts")]

    operations = [
        ops.AddField(
            model_name="Machine",
            name="allocatable",
            field=fields.BooleanField(
                default=True,
                description="Whether the host lets itself be allocated, and whether in parts: as its inventory says, so",
                db_default=True,
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="shareable",
            field=fields.BooleanField(default=True, db_default=True),
        ),
        ops.CreateModel(
            name="GpuGroup",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="gpu_groups",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("model", fields.CharField(max_length=255)),
                (
                    "memory_total",
                    fields.BigIntField(
                        description="In bytes, of each, and 0 where the driver does not say."
                    ),
                ),
                (
                    "gpus",
                    fields.IntField(
                        description="GPUs that are not removed, and those of them that are not UNHEALTHY."
                    ),
                ),
                ("usable", fields.IntField()),
            ],
            options={
                "table": "gpu_group",
                "app": "remotegpu",
                "unique_together": (("machine", "model", "memory_total"),),
                "pk_attr": "id",
                "table_description": "The GPUs of one model and memory size in a machine, counted.",
            },
            bases=["Model"],
        ),
        ops.RunSQL(_FILL, reverse_sql="DELETE FROM gpu_group"),
        RunSQLByDialect(
            sqlite=[
                f"CREATE TRIGGER gpu_added AFTER INSERT ON gpu BEGIN {_ADD} END",
                f"CREATE TRIGGER gpu_deleted AFTER DELETE ON gpu BEGIN {_TAKE} END",
                (
                    f"CREATE TRIGGER gpu_changed AFTER UPDATE OF {_COUNTED} ON gpu "
                    f"BEGIN {_TAKE} {_ADD} END"
                ),
            ],
            reverse_sqlite=[
                f"DROP TRIGGER {name}" for name in ("gpu_changed", "gpu_deleted", "gpu_added")
            ],
            postgres=[
                (
                    "CREATE FUNCTION gpu_counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    f"IF TG_OP <> 'INSERT' THEN {_TAKE} END IF; "
                    f"IF TG_OP <> 'DELETE' THEN {_ADD} END IF; RETURN NULL; END $$"
                ),
                (
                    "CREATE TRIGGER gpu_counted "
                    f"AFTER INSERT OR DELETE OR UPDATE OF {_COUNTED} ON gpu "
                    "FOR EACH ROW EXECUTE FUNCTION gpu_counted()"
                ),
            ],
            reverse_postgres=["DROP TRIGGER gpu_counted ON gpu", "DROP FUNCTION gpu_counted()"],
        ),
        *(
            ops.RunSQL(f"CREATE INDEX {name} ON {columns}", reverse_sql=f"DROP INDEX {name}")
            for name, columns in (
                # Each holds all that a search asks of its table.
                (
                    "machine_open",
                    (
                        "machine (lifecycle, presence, draining, allocatable, shareable, "
                        "command_hold, failed_starts, name, id)"
                    ),
                ),
                (
                    "booking_held",
                    "booking (machine_id, gpu_id, starts_at, ends_at, resource_id) WHERE held",
                ),
                ("gpu_group_counts", "gpu_group (machine_id, model, memory_total, gpus, usable)"),
                ("gpu_useless", "gpu (id) WHERE removed_at IS NOT NULL OR health = 'UNHEALTHY'"),
            )
        ),
    ]

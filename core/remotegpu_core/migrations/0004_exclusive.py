from tortoise.migrations import operations as ops
from tortoise.migrations.constraints import CheckConstraint

from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect

_OVERLAP = """
CREATE TRIGGER booking_overlap_{when} BEFORE {event} ON booking WHEN NEW.held
BEGIN
    SELECT RAISE(ABORT, 'booking_overlap') WHERE EXISTS (
        SELECT 1 FROM booking
        WHERE resource_id = NEW.resource_id AND held AND id <> NEW.id
            AND starts_at < NEW.ends_at AND ends_at > NEW.starts_at
    );
END
"""


class Migration(migration.Migration):
    """Exclusive use: what no code, however wrong, can give to two."""

    dependencies = [("remotegpu", "0003_allocations")]

    operations = [
        ops.RunSQL(
            "INSERT INTO version (name, value) VALUES "
            "('commands', 0), ('operations', 0), ('allocations', 0)",
            reverse_sql="DELETE FROM version "
            "WHERE name IN ('commands', 'operations', 'allocations')",
        ),
        ops.AddConstraint(
            "Quota",
            CheckConstraint(
                name="quota_of_one", check="(user_id IS NULL) <> (workspace_id IS NULL)"
            ),
        ),
        ops.AddConstraint(
            "Booking", CheckConstraint(name="booking_has_length", check="starts_at < ends_at")
        ),
        # Whatever was in somebody's hands comes back with a receipt, or stays in them.
        ops.AddConstraint(
            "Occupancy",
            CheckConstraint(
                name="occupancy_closed_by_receipt",
                check="(closed_at IS NULL) = (receipt_id IS NULL)",
            ),
        ),
        # After the checks, for which SQLite makes the tables anew without their indexes.
        ops.RunSQL(
            "CREATE UNIQUE INDEX booking_once ON booking (allocation_id, resource_id)",
            reverse_sql="DROP INDEX booking_once",
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX occupancy_once ON occupancy (allocation_id, resource_id)",
            reverse_sql="DROP INDEX occupancy_once",
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX occupancy_exclusive ON occupancy (resource_id) "
            "WHERE closed_at IS NULL",
            reverse_sql="DROP INDEX occupancy_exclusive",
        ),
        # Half-open ranges: one may end when the next begins.
        RunSQLByDialect(
            sqlite=[
                "CREATE INDEX booking_by_resource ON booking (resource_id, starts_at)",
                _OVERLAP.format(when="inserted", event="INSERT"),
                _OVERLAP.format(
                    when="updated", event="UPDATE OF resource_id, starts_at, ends_at, held"
                ),
            ],
            reverse_sqlite=[
                "DROP TRIGGER booking_overlap_updated",
                "DROP TRIGGER booking_overlap_inserted",
                "DROP INDEX booking_by_resource",
            ],
            postgres=[
                "CREATE EXTENSION IF NOT EXISTS btree_gist",
                (
                    "ALTER TABLE booking ADD CONSTRAINT booking_overlap EXCLUDE USING gist "
                    "(resource_id WITH =, int8range(starts_at, ends_at) WITH &&) WHERE (held)"
                ),
            ],
            reverse_postgres=["ALTER TABLE booking DROP CONSTRAINT booking_overlap"],
        ),
    ]

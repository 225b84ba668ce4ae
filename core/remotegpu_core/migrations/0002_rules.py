"""What the database holds whatever the code does, and the indexes that no model names."""

from typing import Final

from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect
from remotegpu_core.database.rules import Rule, add_rules

#: The counters of `remotegpu_core.versions`.
_COUNTERS: Final = (
    "('access', 0), ('machine_changes', 0), ('commands', 0), ('operations', 0), ('allocations', 0)"
)

#: At most one row of each, among the rows that the condition takes.
_UNIQUE: Final = (
    # A GPU's UUID is on one machine at a time. Rows of removed cards do not count.
    ("gpu_on_one_machine", "gpu (uuid) WHERE removed_at IS NULL"),
    ("machine_public_key", "machine (public_key)"),
    ("revoked_key_public_key", "revoked_key (public_key)"),
    # One machine has an address in a scope. Contested rows do not count.
    ("address_of_one_machine", "machine_address (scope, address) WHERE held"),
    ("booking_once", "booking (allocation_id, resource_id)"),
    ("occupancy_once", "occupancy (allocation_id, resource_id)"),
    ("occupancy_exclusive", "occupancy (resource_id) WHERE closed_at IS NULL"),
    (
        "mount_path_once",
        "mount (machine_id, path) WHERE state IN ('PENDING', 'MOUNTED', 'UNMOUNTING')",
    ),
)

_INDEXES: Final = (
    # What is asked of allocations every second, by every replica and every viewer.
    ("booking_by_machine", "booking (machine_id, held)"),
    ("occupancy_by_machine", "occupancy (machine_id, closed_at)"),
    ("allocation_by_user", "allocation (user_id, state)"),
    ("allocation_by_workspace", "allocation (workspace_id, state)"),
    ("allocation_by_machine", "allocation (machine_id, state)"),
    ("receipt_by_allocation", "cleaning_receipt (allocation_id)"),
    ("operation_by_user", "operation (user_id)"),
    ("mount_by_dataset", "mount (dataset_id, state)"),
    ("mount_by_allocation", "mount (allocation_id)"),
    ("mount_by_state", "mount (state)"),
    ("dataset_grant_by_user", "dataset_grant (user_id)"),
    ("dataset_grant_by_workspace", "dataset_grant (workspace_id)"),
    ("dataset_by_workspace", "dataset (workspace_id)"),
    # Looked at every few seconds, and hardly ever not empty.
    ("contested_address", "machine_address (machine_id) WHERE NOT held"),
    # Each holds all that a search for free GPUs asks of its table.
    (
        "machine_open",
        (
            "machine (lifecycle, presence, draining, allocatable, shareable, command_hold, "
            "failed_starts, name, id)"
        ),
    ),
    (
        "booking_held",
        "booking (machine_id, gpu_id, starts_at, ends_at, resource_id) WHERE held",
    ),
    ("gpu_group_counts", "gpu_group (machine_id, model, memory_total, gpus, usable)"),
    ("gpu_useless", "gpu (id) WHERE removed_at IS NOT NULL OR health = 'UNHEALTHY'"),
)

_NO_ID: Final = "'00000000-0000-0000-0000-000000000000'"
_CAUSE_ONCE: Final = (
    "CREATE UNIQUE INDEX quarantine_cause_once ON quarantine_cause "
    "(machine_id, code, COALESCE(gpu_id, {none}), COALESCE(allocation_id, {none}))"
)

#: Half-open ranges: one may end when the next begins.
_OVERLAP: Final = """
CREATE TRIGGER booking_overlap_{when} BEFORE {event} ON booking WHEN NEW.held
BEGIN
    SELECT RAISE(ABORT, 'booking_overlap') WHERE EXISTS (
        SELECT 1 FROM booking
        WHERE resource_id = NEW.resource_id AND held AND id <> NEW.id
            AND starts_at < NEW.ends_at AND ends_at > NEW.starts_at
    );
END
"""

#: The GPUs of each model in each machine, counted as they come, change and go.
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
_COUNTED: Final = "machine_id, model, memory_total, health, removed_at"

#: What is booked has a user.
_OCCUPIED: Final = (
    "EXISTS (SELECT 1 FROM occupancy WHERE allocation_id = OLD.allocation_id "
    "AND resource_id = OLD.resource_id AND closed_at IS NULL)"
)

#: What a user had is booked, and what is booked is not available, until there is a receipt that is
#: proven or that an admin answers for.
_RECEIPTS: Final = (
    Rule(
        "receipt_is_proven_or_answered_for",
        "cleaning_receipt",
        "INSERT",
        "NOT NEW.verified AND NEW.reason IS NULL",
    ),
    Rule(
        "receipt_is_final",
        "cleaning_receipt",
        "UPDATE",
        "NEW.allocation_id <> OLD.allocation_id OR NEW.verified <> OLD.verified "
        "OR COALESCE(NEW.reason, '') <> COALESCE(OLD.reason, '')",
    ),
    Rule(
        "occupancy_is_booked",
        "occupancy",
        "INSERT",
        "NOT EXISTS (SELECT 1 FROM booking WHERE allocation_id = NEW.allocation_id "
        "AND resource_id = NEW.resource_id AND held)",
    ),
    Rule(
        "occupancy_closed_by_own_receipt",
        "occupancy",
        "UPDATE",
        "NEW.allocation_id <> OLD.allocation_id OR NEW.resource_id <> OLD.resource_id "
        "OR (NEW.receipt_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM cleaning_receipt "
        "WHERE id = NEW.receipt_id AND allocation_id = NEW.allocation_id))",
    ),
    Rule("occupancy_ends_closed", "occupancy", "DELETE", "OLD.closed_at IS NULL"),
    Rule(
        "booking_held_while_occupied",
        "booking",
        "UPDATE",
        "OLD.held AND (NOT NEW.held OR NEW.resource_id <> OLD.resource_id "
        "OR NEW.allocation_id <> OLD.allocation_id) AND " + _OCCUPIED,
    ),
    Rule("booking_kept_while_occupied", "booking", "DELETE", "OLD.held AND " + _OCCUPIED),
    # One that its host was told of (it has a generation) may have left something there.
    Rule(
        "allocation_ends_with_receipt",
        "allocation",
        "UPDATE",
        "NEW.state IN ('RELEASED', 'FAILED') AND OLD.state NOT IN ('RELEASED', 'FAILED') AND "
        "(EXISTS (SELECT 1 FROM occupancy WHERE allocation_id = OLD.id AND closed_at IS NULL) "
        "OR (NEW.generation > 0 AND "
        "NOT EXISTS (SELECT 1 FROM cleaning_receipt WHERE allocation_id = OLD.id)))",
    ),
)

#: A machine with a cause is not in service, and an unclean one keeps its cause.
_CAUSES: Final = (
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
        f"OR COALESCE(NEW.allocation_id, {_NO_ID}) <> COALESCE(OLD.allocation_id, {_NO_ID})",
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
    dependencies = [("remotegpu", "0001_initial")]

    operations = [
        ops.RunSQL(
            f"INSERT INTO version (name, value) VALUES {_COUNTERS}",  # noqa: S608 - the ones above
            reverse_sql="DELETE FROM version",
        ),
        *(
            ops.RunSQL(f"CREATE UNIQUE INDEX {name} ON {columns}", reverse_sql=f"DROP INDEX {name}")
            for name, columns in _UNIQUE
        ),
        *(
            ops.RunSQL(f"CREATE INDEX {name} ON {columns}", reverse_sql=f"DROP INDEX {name}")
            for name, columns in _INDEXES
        ),
        RunSQLByDialect(
            sqlite=[
                _CAUSE_ONCE.format(none=_NO_ID),
                "CREATE INDEX booking_by_resource ON booking (resource_id, starts_at)",
                _OVERLAP.format(when="inserted", event="INSERT"),
                _OVERLAP.format(
                    when="updated", event="UPDATE OF resource_id, starts_at, ends_at, held"
                ),
                f"CREATE TRIGGER gpu_added AFTER INSERT ON gpu BEGIN {_ADD} END",
                f"CREATE TRIGGER gpu_deleted AFTER DELETE ON gpu BEGIN {_TAKE} END",
                (
                    f"CREATE TRIGGER gpu_changed AFTER UPDATE OF {_COUNTED} ON gpu "
                    f"BEGIN {_TAKE} {_ADD} END"
                ),
            ],
            reverse_sqlite=[
                "DROP TRIGGER gpu_changed",
                "DROP TRIGGER gpu_deleted",
                "DROP TRIGGER gpu_added",
                "DROP TRIGGER booking_overlap_updated",
                "DROP TRIGGER booking_overlap_inserted",
                "DROP INDEX booking_by_resource",
                "DROP INDEX quarantine_cause_once",
            ],
            postgres=[
                _CAUSE_ONCE.format(none=f"{_NO_ID}::uuid"),
                "CREATE EXTENSION IF NOT EXISTS btree_gist",
                (
                    "ALTER TABLE booking ADD CONSTRAINT booking_overlap EXCLUDE USING gist "
                    "(resource_id WITH =, int8range(starts_at, ends_at) WITH &&) WHERE (held)"
                ),
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
            reverse_postgres=[
                "DROP TRIGGER gpu_counted ON gpu",
                "DROP FUNCTION gpu_counted()",
                "ALTER TABLE booking DROP CONSTRAINT booking_overlap",
                "DROP INDEX quarantine_cause_once",
            ],
        ),
        add_rules(_RECEIPTS),
        add_rules(_CAUSES),
    ]

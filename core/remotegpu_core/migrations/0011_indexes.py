from typing import Final

from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect

_ADDED: Final = (
    # The orders of lists, and their filters in that order.
    ("Allocation", ("created_at", "id")),
    ("Allocation", ("starts_at", "id")),
    ("Allocation", ("ends_at", "id")),
    ("AuditEvent", ("at", "id")),
    ("AuditEvent", ("user_id", "at", "id")),
    ("AuditEvent", ("actor_id", "at", "id")),
    ("AuditEvent", ("action", "at", "id")),
    ("AuditEvent", ("target_id", "at", "id")),
    ("AuditEvent", ("outcome", "at", "id")),
    ("Dataset", ("name_key", "id")),
    ("Dataset", ("created_at", "id")),
    ("Machine", ("created_at", "id")),
    # Foreign keys: what belongs to a row is looked up by them, and by the database itself before
    # it deletes that row.
    ("Allocation", ("created_by_id",)),
    ("ApiToken", ("user_id", "id")),
    ("Booking", ("gpu_id",)),
    ("CleaningReceipt", ("overridden_by_id",)),
    ("Command", ("operation_id",)),
    ("Dataset", ("machine_id",)),
    ("Enrollment", ("machine_id",)),
    ("Enrollment", ("created_by_id",)),
    ("Freeze", ("ended_by_id",)),
    ("Gpu", ("machine_id", "removed_at")),
    ("MachineGrant", ("user_id",)),
    ("MachineGrant", ("workspace_id",)),
    ("Membership", ("user_id",)),
    ("Mount", ("machine_id", "state")),
    ("Mount", ("created_by_id",)),
    ("Occupancy", ("gpu_id",)),
    ("Occupancy", ("receipt_id",)),
    ("Operation", ("machine_id",)),
    ("Operation", ("workspace_id",)),
    ("Session", ("user_id",)),
)

#: Made by earlier versions of 0001 and 0003: each is the beginning of one above.
_SUPERSEDED: Final = (
    "idx_audit_event_at_500752",
    "idx_audit_event_actor_i_770e12",
    "idx_audit_event_action_3fd1cc",
    "idx_audit_event_target__197bf7",
    "idx_allocation_starts__8a0264",
    "idx_allocation_ends_at_8a1dc7",
)


class Migration(migration.Migration):
    """What grows with the fleet is found by an index, never by reading a table from end to end."""

    dependencies = [("remotegpu", "0010_receipts")]

    operations = [
        migration.AddIndexes(_ADDED),
        *(ops.RunSQL(f"DROP INDEX IF EXISTS {name}", reverse_sql="") for name in _SUPERSEDED),
        # One quota each. PostgreSQL kept these when the check came to the table; SQLite, which
        # made the table anew for it, did not.
        RunSQLByDialect(
            sqlite=[
                (
                    "DELETE FROM quota WHERE EXISTS (SELECT 1 FROM quota AS newer WHERE "
                    "newer.id > quota.id AND (newer.user_id = quota.user_id "
                    "OR newer.workspace_id = quota.workspace_id))"
                ),
                "CREATE UNIQUE INDEX quota_of_user ON quota (user_id)",
                "CREATE UNIQUE INDEX quota_of_workspace ON quota (workspace_id)",
            ],
            reverse_sqlite=["DROP INDEX quota_of_workspace", "DROP INDEX quota_of_user"],
            postgres=[],
            reverse_postgres=[],
        ),
    ]

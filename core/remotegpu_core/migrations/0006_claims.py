from tortoise.migrations import operations as ops

from remotegpu_core.database import migration


class Migration(migration.Migration):
    """What is asked of allocations every second, by every replica and every viewer."""

    dependencies = [("remotegpu", "0005_leases")]

    operations = [
        ops.RunSQL(f"CREATE INDEX {name} ON {table} ({columns})", reverse_sql=f"DROP INDEX {name}")
        for name, table, columns in (
            ("booking_by_machine", "booking", "machine_id, held"),
            ("occupancy_by_machine", "occupancy", "machine_id, closed_at"),
            ("allocation_by_user", "allocation", "user_id, state"),
            ("allocation_by_workspace", "allocation", "workspace_id, state"),
            ("allocation_by_machine", "allocation", "machine_id, state"),
            ("receipt_by_allocation", "cleaning_receipt", "allocation_id"),
            ("operation_by_user", "operation", "user_id"),
        )
    ]

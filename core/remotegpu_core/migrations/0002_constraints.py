from tortoise.migrations import operations as ops
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint

from remotegpu_core.database import migration


class Migration(migration.Migration):
    """What must hold whatever the code does."""

    dependencies = [("remotegpu", "0001_initial")]

    operations = [
        # The counters of `remotegpu_core.versions`.
        ops.RunSQL(
            "INSERT INTO version (name, value) VALUES ('access', 0), ('machine_changes', 0)",
            reverse_sql="DELETE FROM version",
        ),
        # A GPU's UUID is on one machine at a time. Rows of removed cards do not count.
        ops.RunSQL(
            "CREATE UNIQUE INDEX gpu_on_one_machine ON gpu (uuid) WHERE removed_at IS NULL",
            reverse_sql="DROP INDEX gpu_on_one_machine",
        ),
        # A grant is to a user or to a workspace, never to both or to nobody.
        ops.AddConstraint(
            "MachineGrant",
            CheckConstraint(
                name="machine_grant_to_one",
                check="(user_id IS NULL) <> (workspace_id IS NULL)",
            ),
        ),
        # Each grant once. After the check, which on SQLite makes the table anew without what
        # `unique_together` says; an index of its own stays.
        *(
            ops.AddConstraint(
                "MachineGrant",
                UniqueConstraint(fields=("machine", to), name=f"machine_grant_{to}_once"),
            )
            for to in ("user", "workspace")
        ),
    ]

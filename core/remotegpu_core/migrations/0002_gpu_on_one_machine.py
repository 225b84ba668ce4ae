from tortoise import migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """A GPU's UUID is on one machine at a time; rows of removed cards do not count."""

    dependencies = [("remotegpu", "0001_initial")]

    operations = [
        ops.RunSQL(
            "CREATE UNIQUE INDEX gpu_on_one_machine ON gpu (uuid) WHERE removed_at IS NULL",
            reverse_sql="DROP INDEX gpu_on_one_machine",
        ),
    ]

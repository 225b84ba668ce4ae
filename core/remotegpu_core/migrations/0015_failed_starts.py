from tortoise import fields
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration


class Migration(migration.Migration):
    """A machine remembers starts that failed on it."""

    dependencies = [("remotegpu", "0014_known_networks")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Machine",
            name="failed_start",
            field=fields.CharField(null=True, max_length=300),
        ),
        ops.AddField(
            model_name="Machine",
            name="failed_starts",
            field=fields.IntField(
                default=0,
                description="Starts that failed since the last one that succeeded, and why the newest of them did.",
                db_default=0,
            ),
        ),
    ]

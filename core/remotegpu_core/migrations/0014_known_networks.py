from tortoise import fields
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration


class Migration(migration.Migration):
    dependencies = [("remotegpu", "0013_quarantine_causes")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Session",
            name="source_network",
            field=fields.CharField(
                null=True, description="`networks.caller_network` of it.", max_length=64
            ),
        ),
    ]

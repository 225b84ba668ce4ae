from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
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

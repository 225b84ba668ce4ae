from tortoise import fields
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration


class Migration(migration.Migration):
    """What hosts say of themselves that another host says too."""

    dependencies = [("remotegpu", "0002_rules")]

    initial = False

    operations = [
        ops.AddField(
            model_name="Gpu",
            name="claimed_at",
            field=fields.BigIntField(
                null=True,
                description="Since when its host reports it although another machine has it.",
            ),
        ),
        ops.AddField(
            model_name="Gpu",
            name="decided_at",
            field=fields.BigIntField(
                null=True, description="When an admin said that it is in this machine."
            ),
        ),
        ops.AddField(
            model_name="Gpu",
            name="disputed_at",
            field=fields.BigIntField(
                null=True,
                description="Since when another machine's equal claim keeps it out of use.",
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="claimed_hardware_uuid",
            field=fields.CharField(
                null=True,
                description="The hardware UUID that the host reports although another machine has it, and when an admin",
                max_length=36,
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="hardware_accepted_at",
            field=fields.BigIntField(null=True),
        ),
        ops.AddField(
            model_name="Machine",
            name="link_address",
            field=fields.CharField(
                null=True,
                description="The address that its newest link came from, as the server saw it.",
                max_length=45,
            ),
        ),
        *(
            ops.RunSQL(f"CREATE INDEX {name} ON {columns}", reverse_sql=f"DROP INDEX {name}")
            for name, columns in (
                # Looked at every few seconds, and hardly ever not empty.
                ("gpu_by_uuid", "gpu (uuid)"),
                ("gpu_claimed", "gpu (uuid) WHERE claimed_at IS NOT NULL"),
                ("gpu_disputed", "gpu (uuid) WHERE disputed_at IS NOT NULL"),
            )
        ),
    ]

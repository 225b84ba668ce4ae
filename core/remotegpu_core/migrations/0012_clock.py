from tortoise import fields
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.models.system import FreezeCause


class Migration(migration.Migration):
    """What a process compares its clock with when it starts, and why a freeze holds."""

    dependencies = [("remotegpu", "0011_indexes")]

    initial = False

    operations = [
        ops.CreateModel(
            name="ClockStamp",
            fields=[
                (
                    "id",
                    fields.SmallIntField(
                        generated=False, primary_key=True, default=1, unique=True, db_index=True
                    ),
                ),
                ("at", fields.BigIntField()),
            ],
            options={
                "table": "clock_stamp",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "One row: the newest moment at which a process lived whose clock was not doubted.",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Freeze",
            name="cause",
            field=fields.CharEnumField(
                default=FreezeCause.STARTED,
                description="STARTED: STARTED\nSILENCE: SILENCE\nCLOCK: CLOCK",
                db_default="STARTED",
                enum_type=FreezeCause,
                max_length=16,
            ),
        ),
    ]

import functools
from json import dumps, loads

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.ids import new_id


class Migration(migration.Migration):
    dependencies = [("remotegpu", "0004_exclusive")]

    initial = False

    operations = [
        ops.CreateModel(
            name="Freeze",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("reason", fields.CharField(max_length=500)),
                ("started_at", fields.BigIntField()),
                ("until", fields.BigIntField(db_index=True)),
                ("ended_at", fields.BigIntField(null=True)),
                (
                    "ended_by",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="ended_by_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="freezes_ended",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
            ],
            options={
                "table": "frozen_time",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A time in which nothing is destroyed by itself, see `services.freeze`.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Lease",
            fields=[
                (
                    "name",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                ("holder", fields.UUIDField()),
                ("until", fields.BigIntField()),
                ("token", fields.BigIntField(default=1)),
            ],
            options={
                "table": "lease",
                "app": "remotegpu",
                "pk_attr": "name",
                "table_description": "Who does a periodic duty, until when. `token` counts how often it changed hands.",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Machine",
            name="former_boot_ids",
            field=fields.JSONField(
                null=True,
                description="Boots of before, newest first: one that comes back tells of a second host with one key.",
                encoder=functools.partial(dumps, separators=(",", ":")),
                decoder=loads,
            ),
        ),
    ]

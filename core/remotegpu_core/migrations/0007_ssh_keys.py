from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.ids import new_id


class Migration(migration.Migration):
    dependencies = [("remotegpu", "0006_claims")]

    initial = False

    operations = [
        ops.CreateModel(
            name="SshKey",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="ssh_keys",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("name", fields.CharField(max_length=64)),
                ("algorithm", fields.CharField(max_length=64)),
                ("fingerprint", fields.CharField(max_length=64)),
                ("line", fields.TextField(unique=False)),
                ("comment", fields.CharField(max_length=255)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "ssh_key",
                "app": "remotegpu",
                "unique_together": (("user", "fingerprint"),),
                "pk_attr": "id",
                "table_description": "A public key that signs its user in on what is allocated to them.",
            },
            bases=["Model"],
        ),
    ]

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.database.dialects import RunSQLByDialect
from remotegpu_core.ids import new_id

_SHARED_KEYS = (
    "UPDATE machine SET public_key = {random} WHERE EXISTS (SELECT 1 FROM machine AS newer "
    "WHERE newer.public_key = machine.public_key AND newer.id > machine.id)"
)


class Migration(migration.Migration):
    """What accepting a host accepts; a key is one machine's."""

    dependencies = [("remotegpu", "0015_failed_starts")]

    initial = False

    operations = [
        ops.CreateModel(
            name="RevokedKey",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="revoked_keys",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("public_key", fields.BinaryField()),
                ("revoked_at", fields.BigIntField()),
            ],
            options={
                "table": "revoked_key",
                "app": "remotegpu",
                "indexes": [Index(fields=["machine_id"])],
                "pk_attr": "id",
                "table_description": "A public key that a machine had before its host was enrolled anew.",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Machine",
            name="accepted_epoch",
            field=fields.BigIntField(
                default=0,
                description="The epoch that began when an admin last accepted the host.",
                db_default=0,
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="offered_acknowledged",
            field=fields.BigIntField(null=True),
        ),
        ops.AddField(
            model_name="Machine",
            name="offered_journal_id",
            field=fields.CharField(null=True, max_length=128),
        ),
        # Of machines that shared one, the newest keeps it: the others' hosts are to be enrolled anew.
        RunSQLByDialect(
            sqlite=[_SHARED_KEYS.format(random="randomblob(32)")],
            reverse_sqlite=[],
            reverse_postgres=[],
            postgres=[
                _SHARED_KEYS.format(random="decode(md5(random()::text) || md5(id::text), 'hex')")
            ],
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX machine_public_key ON machine (public_key)", reverse_sql=""
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX revoked_key_public_key ON revoked_key (public_key)", reverse_sql=""
        ),
    ]

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint

from remotegpu_core.database import migration
from remotegpu_core.ids import new_id
from remotegpu_core.states import DatasetAccess, DatasetVisibility, MountState
from remotegpu_protocol.datasets import SourceKind


class Migration(migration.Migration):
    """Datasets, grants on them, and where they are mounted."""

    dependencies = [("remotegpu", "0007_ssh_keys")]

    initial = False

    operations = [
        ops.CreateModel(
            name="Dataset",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "owner",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="owner_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="datasets",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("name", fields.CharField(max_length=64)),
                (
                    "name_key",
                    fields.CharField(
                        description="In lower case, unique among its owner's.", max_length=64
                    ),
                ),
                (
                    "kind",
                    fields.CharEnumField(
                        description="DIRECTORY: DIRECTORY\nNFS: NFS\nS3: S3",
                        enum_type=SourceKind,
                        max_length=16,
                    ),
                ),
                ("location", fields.CharField(max_length=1024)),
                (
                    "endpoint",
                    fields.CharField(
                        null=True, description="Of a bucket that is not Amazon's.", max_length=1024
                    ),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="datasets",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "visibility",
                    fields.CharEnumField(
                        description="PRIVATE: PRIVATE\nWORKSPACE: WORKSPACE\nPUBLIC: PUBLIC",
                        enum_type=DatasetVisibility,
                        max_length=16,
                    ),
                ),
                (
                    "workspace",
                    fields.ForeignKeyField(
                        "remotegpu.Workspace",
                        source_field="workspace_id",
                        null=True,
                        description="Whose members see it, with the visibility WORKSPACE.",
                        db_constraint=True,
                        to_field="id",
                        related_name="datasets",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "size",
                    fields.BigIntField(
                        null=True,
                        description="Bytes and objects when it was last measured, or else why that is not known.",
                    ),
                ),
                ("object_count", fields.BigIntField(null=True)),
                ("size_reason", fields.CharField(null=True, max_length=500)),
                ("measured_at", fields.BigIntField(null=True)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "dataset",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "Data that lies somewhere, which those who may can have mounted where they compute.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="DatasetGrant",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "dataset",
                    fields.ForeignKeyField(
                        "remotegpu.Dataset",
                        source_field="dataset_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="grants",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="user_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="dataset_grants",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "workspace",
                    fields.ForeignKeyField(
                        "remotegpu.Workspace",
                        source_field="workspace_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="dataset_grants",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "access",
                    fields.CharEnumField(
                        description="READ: READ\nWRITE: WRITE",
                        enum_type=DatasetAccess,
                        max_length=16,
                    ),
                ),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "dataset_grant",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "Lets a user, or everybody in a workspace, mount a dataset: exactly one of the two.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Mount",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "dataset",
                    fields.ForeignKeyField(
                        "remotegpu.Dataset",
                        source_field="dataset_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="mounts",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="mounts",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="mounts",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("path", fields.CharField(max_length=1024)),
                ("read_only", fields.BooleanField()),
                (
                    "state",
                    fields.CharEnumField(
                        default=MountState.PENDING,
                        description="PENDING: PENDING\nMOUNTED: MOUNTED\nUNMOUNTING: UNMOUNTING\nUNMOUNTED: UNMOUNTED\nFAILED: FAILED",
                        enum_type=MountState,
                        max_length=16,
                    ),
                ),
                (
                    "created_by",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="created_by_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="mounts_made",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
                (
                    "operation_id",
                    fields.UUIDField(
                        null=True,
                        description="That mounts it, and later that unmounts it. Not a foreign key: operations are pruned.",
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("mounted_at", fields.BigIntField(null=True)),
                ("ended_at", fields.BigIntField(null=True)),
                (
                    "unmount_at",
                    fields.BigIntField(
                        null=True, description="When its host was last told to unmount it."
                    ),
                ),
                (
                    "error_code",
                    fields.CharField(
                        null=True,
                        description="Why it failed, why it was taken away, or why it is still there.",
                        max_length=64,
                    ),
                ),
                ("error_message", fields.CharField(null=True, max_length=2000)),
            ],
            options={
                "table": "mount",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A dataset where an allocation's account sees it on its machine.",
            },
            bases=["Model"],
        ),
        *(
            ops.AddConstraint(model, CheckConstraint(name=name, check=check))
            for model, name, check in (
                (
                    "Dataset",
                    "dataset_directory_of_a_machine",
                    "(kind = 'DIRECTORY') = (machine_id IS NOT NULL)",
                ),
                (
                    "Dataset",
                    "dataset_of_a_workspace",
                    "(visibility = 'WORKSPACE') = (workspace_id IS NOT NULL)",
                ),
                (
                    "DatasetGrant",
                    "dataset_grant_to_one",
                    "(user_id IS NULL) <> (workspace_id IS NULL)",
                ),
            )
        ),
        # After the checks, for which SQLite makes the tables anew without their indexes.
        *(
            ops.AddConstraint(model, UniqueConstraint(fields=fields, name=name))
            for model, fields, name in (
                ("Dataset", ("owner", "name_key"), "dataset_name_once"),
                ("DatasetGrant", ("dataset", "user"), "dataset_grant_user_once"),
                ("DatasetGrant", ("dataset", "workspace"), "dataset_grant_workspace_once"),
            )
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX mount_path_once ON mount (machine_id, path) "
            "WHERE state IN ('PENDING', 'MOUNTED', 'UNMOUNTING')",
            reverse_sql="DROP INDEX mount_path_once",
        ),
        *(
            ops.RunSQL(
                f"CREATE INDEX {name} ON {table} ({columns})", reverse_sql=f"DROP INDEX {name}"
            )
            for name, table, columns in (
                ("mount_by_dataset", "mount", "dataset_id, state"),
                ("mount_by_allocation", "mount", "allocation_id"),
                ("mount_by_state", "mount", "state"),
                ("dataset_grant_by_user", "dataset_grant", "user_id"),
                ("dataset_grant_by_workspace", "dataset_grant", "workspace_id"),
                ("dataset_by_workspace", "dataset", "workspace_id"),
            )
        ),
    ]

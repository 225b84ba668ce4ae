import functools
from json import dumps, loads
from uuid import uuid4

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from remotegpu_core.actor import ActorKind, Role
from remotegpu_core.database import migration
from remotegpu_core.ids import new_id
from remotegpu_core.models.audit_event import Outcome
from remotegpu_core.models.workspace import WorkspaceRole
from remotegpu_core.states import Health, Lifecycle, Presence


class Migration(migration.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="AuditEvent",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("at", fields.BigIntField()),
                (
                    "actor_kind",
                    fields.CharEnumField(
                        description="ANONYMOUS: ANONYMOUS\nUSER: USER\nAPI_TOKEN: API_TOKEN\nMACHINE: MACHINE\nSYSTEM: SYSTEM",
                        enum_type=ActorKind,
                        max_length=16,
                    ),
                ),
                ("actor_id", fields.UUIDField(null=True)),
                (
                    "user_id",
                    fields.UUIDField(null=True, description="The user behind an API token."),
                ),
                ("action", fields.CharField(max_length=64)),
                ("target_type", fields.CharField(null=True, max_length=32)),
                ("target_id", fields.UUIDField(null=True)),
                (
                    "outcome",
                    fields.CharEnumField(
                        description="SUCCEEDED: SUCCEEDED\nDENIED: DENIED\nFAILED: FAILED",
                        enum_type=Outcome,
                        max_length=16,
                    ),
                ),
                ("source_address", fields.CharField(null=True, max_length=64)),
                (
                    "details",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
            ],
            options={
                "table": "audit_event",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "Something that somebody did or tried. Rows outlive what they speak of, so no foreign keys.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Machine",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("name", fields.CharField(max_length=63)),
                ("name_key", fields.CharField(unique=True, max_length=63)),
                ("public_key", fields.BinaryField()),
                (
                    "hardware_uuid",
                    fields.CharField(
                        null=True,
                        unique=True,
                        description="SMBIOS UUID, null where the firmware has none worth the name.",
                        max_length=36,
                    ),
                ),
                ("boot_id", fields.CharField(null=True, max_length=255)),
                ("agent_version", fields.CharField(null=True, max_length=255)),
                ("epoch", fields.BigIntField(default=0)),
                ("replica_id", fields.UUIDField(null=True)),
                (
                    "presence",
                    fields.CharEnumField(
                        default=Presence.UNREACHABLE,
                        description="ONLINE: ONLINE\nUNREACHABLE: UNREACHABLE\nLOST: LOST",
                        enum_type=Presence,
                        max_length=16,
                    ),
                ),
                (
                    "lifecycle",
                    fields.CharEnumField(
                        default=Lifecycle.IN_SERVICE,
                        description="IN_SERVICE: IN_SERVICE\nMAINTENANCE: MAINTENANCE\nQUARANTINED: QUARANTINED\nRETIRED: RETIRED",
                        enum_type=Lifecycle,
                        max_length=16,
                    ),
                ),
                (
                    "health",
                    fields.CharEnumField(
                        default=Health.HEALTHY,
                        description="HEALTHY: HEALTHY\nDEGRADED: DEGRADED\nUNHEALTHY: UNHEALTHY",
                        enum_type=Health,
                        max_length=16,
                    ),
                ),
                (
                    "health_reasons",
                    fields.JSONField(
                        default=list,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "last_seen_at",
                    fields.BigIntField(
                        null=True,
                        description="When the agent was last heard, as far as the database knows: live values are on the bus.",
                    ),
                ),
                (
                    "host",
                    fields.JSONField(
                        default=dict,
                        description="The host's part of the last inventory, as `remotegpu_protocol.inventory.HostInventory`.",
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("inventory_at", fields.BigIntField(null=True)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "machine",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A host that was enrolled.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Gpu",
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
                        related_name="gpus",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("index", fields.IntField()),
                ("uuid", fields.CharField(max_length=128)),
                ("model", fields.CharField(max_length=255)),
                ("memory_total", fields.BigIntField(null=True)),
                (
                    "health",
                    fields.CharEnumField(
                        default=Health.HEALTHY,
                        description="HEALTHY: HEALTHY\nDEGRADED: DEGRADED\nUNHEALTHY: UNHEALTHY",
                        enum_type=Health,
                        max_length=16,
                    ),
                ),
                ("health_reason", fields.TextField(null=True, unique=False)),
                (
                    "details",
                    fields.JSONField(
                        default=dict,
                        description="The rest of the inventory, as `remotegpu_protocol.inventory.GpuInventory`.",
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("removed_at", fields.BigIntField(null=True)),
            ],
            options={
                "table": "gpu",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A card in a machine.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="MachineChange",
            fields=[
                (
                    "sequence",
                    fields.BigIntField(
                        primary_key=True, generated=False, unique=True, db_index=True
                    ),
                ),
                ("machine_id", fields.UUIDField(db_index=True)),
                ("kind", fields.CharField(max_length=32)),
                ("at", fields.BigIntField()),
            ],
            options={
                "table": "machine_change",
                "app": "remotegpu",
                "pk_attr": "sequence",
                "table_description": "The log behind `machineChanged`: what happened to which machine, in commit order.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="MachineLabel",
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
                        related_name="labels",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("key", fields.CharField(max_length=63)),
                ("value", fields.CharField(max_length=255)),
            ],
            options={
                "table": "machine_label",
                "app": "remotegpu",
                "unique_together": (("machine", "key"),),
                "indexes": [Index(fields=["key", "value"])],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Replica",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=uuid4, unique=True, db_index=True),
                ),
                ("started_at", fields.BigIntField()),
                ("heartbeat_at", fields.BigIntField()),
            ],
            options={
                "table": "replica",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A running control plane process. One whose `heartbeat_at` is old holds no links any more.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="SignInFailure",
            fields=[
                (
                    "key",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=200),
                ),
                ("count", fields.IntField()),
                ("last_at", fields.BigIntField()),
            ],
            options={
                "table": "sign_in_failure",
                "app": "remotegpu",
                "pk_attr": "key",
                "table_description": "Attempts that count towards a lockout: `key` says of what (see `services.lockout`).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="User",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("username", fields.CharField(max_length=64)),
                (
                    "username_key",
                    fields.CharField(
                        unique=True,
                        description="`username` in lower case: names that differ by case only are one name.",
                        max_length=64,
                    ),
                ),
                ("password_hash", fields.CharField(max_length=255)),
                (
                    "role",
                    fields.CharEnumField(
                        description="ADMIN: ADMIN\nUSER: USER", enum_type=Role, max_length=16
                    ),
                ),
                ("disabled_at", fields.BigIntField(null=True)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "user_account",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A person who signs in. Times are milliseconds since the Unix epoch, here and everywhere.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="ApiToken",
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
                        related_name="api_tokens",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("name", fields.CharField(max_length=64)),
                ("token_hash", fields.CharField(unique=True, max_length=64)),
                (
                    "scopes",
                    fields.JSONField(
                        encoder=functools.partial(dumps, separators=(",", ":")), decoder=loads
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("expires_at", fields.BigIntField(null=True)),
                ("revoked_at", fields.BigIntField(null=True)),
                ("last_used_at", fields.BigIntField(null=True)),
            ],
            options={
                "table": "api_token",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A token for programs, `scopes` is a list of `Scope` values.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Enrollment",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("token_hash", fields.CharField(unique=True, max_length=64)),
                ("machine_name", fields.CharField(max_length=63)),
                (
                    "labels",
                    fields.JSONField(
                        default=list,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
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
                        related_name="enrollments",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("replaces", fields.BooleanField(default=False)),
                (
                    "created_by",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="created_by_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="enrollments",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("expires_at", fields.BigIntField()),
                ("redeemed_at", fields.BigIntField(null=True)),
                ("revoked_at", fields.BigIntField(null=True)),
                ("public_key", fields.BinaryField(null=True)),
            ],
            options={
                "table": "enrollment",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "Permission for one host to become a machine, behind a token that is stored as a hash.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Session",
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
                        related_name="sessions",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("token_hash", fields.CharField(unique=True, max_length=64)),
                ("created_at", fields.BigIntField()),
                ("expires_at", fields.BigIntField(db_index=True)),
                ("revoked_at", fields.BigIntField(null=True)),
                ("source_address", fields.CharField(null=True, max_length=64)),
            ],
            options={
                "table": "session",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A sign-in with user name and password, its token is stored as a hash.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Version",
            fields=[
                (
                    "name",
                    fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32),
                ),
                ("value", fields.BigIntField(default=0)),
            ],
            options={
                "table": "version",
                "app": "remotegpu",
                "pk_attr": "name",
                "table_description": "A counter that grows in the transaction of whatever it counts, see `services.versions`.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Workspace",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("name", fields.CharField(max_length=64)),
                ("name_key", fields.CharField(unique=True, max_length=64)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "workspace",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "A group of people who share machines.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="MachineGrant",
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
                        related_name="machine_grants",
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
                        related_name="machine_grants",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "machine_grant",
                "app": "remotegpu",
                "pk_attr": "id",
                "table_description": "Lets a user, or everybody in a workspace, see and watch a machine: exactly one of the two.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Membership",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "workspace",
                    fields.ForeignKeyField(
                        "remotegpu.Workspace",
                        source_field="workspace_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="memberships",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="memberships",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "role",
                    fields.CharEnumField(
                        description="OWNER: OWNER\nADMIN: ADMIN\nMEMBER: MEMBER\nVIEWER: VIEWER",
                        enum_type=WorkspaceRole,
                        max_length=16,
                    ),
                ),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "membership",
                "app": "remotegpu",
                "unique_together": (("workspace", "user"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
    ]

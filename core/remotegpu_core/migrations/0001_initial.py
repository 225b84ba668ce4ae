import functools
from json import dumps, loads
from uuid import uuid4

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint

from remotegpu_core.actor import ActorKind, Role
from remotegpu_core.database import migration
from remotegpu_core.ids import new_id
from remotegpu_core.models.audit_event import Outcome
from remotegpu_core.models.machine_address import AddressSource
from remotegpu_core.models.system import FreezeCause
from remotegpu_core.models.workspace import WorkspaceRole
from remotegpu_core.states import (
    AllocationState,
    CommandState,
    DatasetAccess,
    DatasetVisibility,
    Health,
    Lifecycle,
    MountState,
    OperationState,
    Presence,
    StepState,
)
from remotegpu_protocol.datasets import SourceKind
from remotegpu_protocol.inventory import AddressKind


class Migration(migration.Migration):
    """All tables, with the checks and indexes that the models name."""

    initial = True

    operations = [
        migration.CreateModel(
            name="AllocationEvent",
            fields=[
                (
                    "sequence",
                    fields.BigIntField(
                        primary_key=True, generated=False, unique=True, db_index=True
                    ),
                ),
                ("allocation_id", fields.UUIDField(db_index=True)),
                ("kind", fields.CharField(max_length=32)),
                ("at", fields.BigIntField()),
            ],
            options={
                "table": "allocation_event",
                "app": "remotegpu",
                "pk_attr": "sequence",
                "table_description": "The log behind `allocationChanged`: what happened to which allocation, in commit order.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "indexes": [
                    Index(fields=["at", "id"]),
                    Index(fields=["user_id", "at", "id"]),
                    Index(fields=["actor_id", "at", "id"]),
                    Index(fields=["action", "at", "id"]),
                    Index(fields=["target_id", "at", "id"]),
                    Index(fields=["outcome", "at", "id"]),
                ],
                "pk_attr": "id",
                "table_description": "Something that somebody did or tried. Rows outlive what they speak of, so no foreign keys.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="ClockStamp",
            fields=[
                (
                    "id",
                    fields.SmallIntField(
                        primary_key=True, generated=False, default=1, unique=True, db_index=True
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
        migration.CreateModel(
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
        migration.CreateModel(
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
                (
                    "former_boot_ids",
                    fields.JSONField(
                        null=True,
                        description="Boots of before, newest first: one that comes back tells of a second host with one key.",
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
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
                (
                    "draining",
                    fields.BooleanField(
                        default=False,
                        description="No new allocation is placed here, those that there are go on.",
                        db_default=False,
                    ),
                ),
                (
                    "allocatable",
                    fields.BooleanField(
                        default=True,
                        description="Whether the host lets itself be allocated, and whether in parts: as its inventory says, so",
                        db_default=True,
                    ),
                ),
                ("shareable", fields.BooleanField(default=True, db_default=True)),
                (
                    "lifecycle_reason",
                    fields.CharField(
                        null=True,
                        description="Why the operators took it out of service, or why it is quarantined.",
                        max_length=500,
                    ),
                ),
                (
                    "journal_id",
                    fields.CharField(
                        null=True,
                        description="The agent's journal of commands, and the last of its events that was applied.",
                        max_length=128,
                    ),
                ),
                ("event_sequence", fields.BigIntField(default=0, db_default=0)),
                ("offered_journal_id", fields.CharField(null=True, max_length=128)),
                ("offered_acknowledged", fields.BigIntField(null=True)),
                (
                    "accepted_epoch",
                    fields.BigIntField(
                        default=0,
                        description="The epoch that began when an admin last accepted the host.",
                        db_default=0,
                    ),
                ),
                (
                    "command_hold",
                    fields.CharField(
                        null=True,
                        description="Why no command is sent until an admin accepts the host: see `services.journals`.",
                        max_length=500,
                    ),
                ),
                (
                    "failed_starts",
                    fields.IntField(
                        default=0,
                        description="Starts that failed since the last one that succeeded, and why the newest of them did.",
                        db_default=0,
                    ),
                ),
                ("failed_start", fields.CharField(null=True, max_length=300)),
            ],
            options={
                "table": "machine",
                "app": "remotegpu",
                "indexes": [Index(fields=["created_at", "id"])],
                "pk_attr": "id",
                "table_description": "A host that was enrolled.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "indexes": [Index(fields=["machine_id", "removed_at"])],
                "pk_attr": "id",
                "table_description": "A card in a machine.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="GpuGroup",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="gpu_groups",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("model", fields.CharField(max_length=255)),
                (
                    "memory_total",
                    fields.BigIntField(
                        description="In bytes, of each, and 0 where the driver does not say."
                    ),
                ),
                (
                    "gpus",
                    fields.IntField(
                        description="GPUs that are not removed, and those of them that are not UNHEALTHY."
                    ),
                ),
                ("usable", fields.IntField()),
            ],
            options={
                "table": "gpu_group",
                "app": "remotegpu",
                "unique_together": (("machine", "model", "memory_total"),),
                "pk_attr": "id",
                "table_description": "The GPUs of one model and memory size in a machine, counted.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="MachineAddress",
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
                        related_name="addresses",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "scope",
                    fields.CharField(description="See `services.addresses.scope`.", max_length=262),
                ),
                ("address", fields.CharField(max_length=45)),
                (
                    "kind",
                    fields.CharEnumField(
                        description="MANAGEMENT: MANAGEMENT\nPUBLIC: PUBLIC\nADDITIONAL: ADDITIONAL",
                        enum_type=AddressKind,
                        max_length=16,
                    ),
                ),
                ("interface", fields.CharField(null=True, max_length=255)),
                (
                    "source",
                    fields.CharEnumField(
                        description="AGENT: AGENT\nADMIN: ADMIN",
                        enum_type=AddressSource,
                        max_length=8,
                    ),
                ),
                ("held", fields.BooleanField()),
                ("accepted_at", fields.BigIntField(null=True)),
                ("accepted_reason", fields.CharField(null=True, max_length=500)),
                ("created_at", fields.BigIntField()),
            ],
            options={
                "table": "machine_address",
                "app": "remotegpu",
                "unique_together": (("machine", "address"),),
                "pk_attr": "id",
                "table_description": "An IP address of a machine, in the one spelling that `remotegpu_protocol.addresses` gives it.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
                "indexes": [Index(fields=["user_id", "id"])],
                "pk_attr": "id",
                "table_description": "A token for programs, `scopes` is a list of `Scope` values.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "indexes": [Index(fields=["machine_id"]), Index(fields=["created_by_id"])],
                "pk_attr": "id",
                "table_description": "Permission for one host to become a machine, behind a token that is stored as a hash.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Freeze",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "cause",
                    fields.CharEnumField(
                        default=FreezeCause.STARTED,
                        description="STARTED: STARTED\nSILENCE: SILENCE\nCLOCK: CLOCK",
                        db_default="STARTED",
                        enum_type=FreezeCause,
                        max_length=16,
                    ),
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
                "indexes": [Index(fields=["ended_by_id"])],
                "pk_attr": "id",
                "table_description": "A time in which nothing is destroyed by itself, see `services.freeze`.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="IdempotencyKey",
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
                        related_name="idempotency_keys",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("mutation", fields.CharField(max_length=64)),
                ("key", fields.CharField(max_length=128)),
                (
                    "input_hash",
                    fields.CharField(
                        description="SHA-256 of the input without the key, in hexadecimal.",
                        max_length=64,
                    ),
                ),
                (
                    "object_id",
                    fields.UUIDField(
                        null=True,
                        description="The object that it made or changed, and the operation that it began.",
                    ),
                ),
                ("operation_id", fields.UUIDField(null=True)),
                ("created_at", fields.BigIntField(db_index=True)),
            ],
            options={
                "table": "idempotency_key",
                "app": "remotegpu",
                "unique_together": (("user", "mutation", "key"),),
                "pk_attr": "id",
                "table_description": "A call that was made with a key: the same call again gives the same objects for a day.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                (
                    "source_network",
                    fields.CharField(
                        null=True, description="`networks.caller_network` of it.", max_length=64
                    ),
                ),
            ],
            options={
                "table": "session",
                "app": "remotegpu",
                "indexes": [Index(fields=["user_id"])],
                "pk_attr": "id",
                "table_description": "A sign-in with user name and password, its token is stored as a hash.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
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
        migration.CreateModel(
            name="Allocation",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "state",
                    fields.CharEnumField(
                        default=AllocationState.PENDING,
                        description="PENDING: PENDING\nACTIVE: ACTIVE\nRECLAIMING: RECLAIMING\nRELEASED: RELEASED\nFAILED: FAILED",
                        enum_type=AllocationState,
                        max_length=16,
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="user_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="allocations",
                        on_delete=OnDelete.RESTRICT,
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
                        related_name="allocations",
                        on_delete=OnDelete.SET_NULL,
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
                        related_name="allocations",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("whole_machine", fields.BooleanField(default=False)),
                (
                    "gpu_count",
                    fields.IntField(
                        default=0,
                        description="GPUs that count against quotas: those booked, or asked for while it waits.",
                    ),
                ),
                (
                    "requirement",
                    fields.JSONField(
                        null=True,
                        description="What was asked for, when it was not a machine by name (see `services.placement`).",
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "queued",
                    fields.BooleanField(
                        default=False,
                        description="Whether it waits for a place rather than failing without one.",
                    ),
                ),
                ("starts_at", fields.BigIntField()),
                ("ends_at", fields.BigIntField()),
                ("generation", fields.IntField(default=0)),
                (
                    "created_by",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="created_by_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="allocations_made",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("activated_at", fields.BigIntField(null=True)),
                (
                    "ended_at",
                    fields.BigIntField(
                        null=True,
                        description="When it was given back or ran out, and when its GPUs were free for the next one.",
                    ),
                ),
                ("released_at", fields.BigIntField(null=True)),
                (
                    "warned",
                    fields.BigIntField(
                        null=True,
                        description="The shortest notice of its end that was given so far, in milliseconds.",
                    ),
                ),
                (
                    "error_code",
                    fields.CharField(null=True, description="Why it failed.", max_length=64),
                ),
                ("error_message", fields.CharField(null=True, max_length=2000)),
                (
                    "keys_error_code",
                    fields.CharField(
                        null=True,
                        description="Why its account's keys on the host are not its user's, while they are not.",
                        max_length=64,
                    ),
                ),
                ("keys_error_message", fields.CharField(null=True, max_length=2000)),
            ],
            options={
                "table": "allocation",
                "app": "remotegpu",
                "indexes": [
                    Index(fields=["state", "starts_at"]),
                    Index(fields=["state", "ends_at"]),
                    Index(fields=["created_at", "id"]),
                    Index(fields=["starts_at", "id"]),
                    Index(fields=["ends_at", "id"]),
                    Index(fields=["created_by_id"]),
                ],
                "pk_attr": "id",
                "table_description": "A user's right to a machine, or to GPUs of it, for a time: [starts_at, ends_at).",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Booking",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="bookings",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("resource_id", fields.UUIDField(db_index=True)),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="bookings",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "gpu",
                    fields.ForeignKeyField(
                        "remotegpu.Gpu",
                        source_field="gpu_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="bookings",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("starts_at", fields.BigIntField()),
                ("ends_at", fields.BigIntField()),
                (
                    "held",
                    fields.BooleanField(
                        default=True,
                        description="False once the time is given back: it binds nobody any more.",
                    ),
                ),
            ],
            options={
                "table": "booking",
                "app": "remotegpu",
                "constraints": [
                    CheckConstraint(check="starts_at < ends_at", name="booking_has_length")
                ],
                "indexes": [Index(fields=["gpu_id"])],
                "pk_attr": "id",
                "table_description": "A resource, that is a GPU or a whole machine, promised for a time: [starts_at, ends_at).",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="CleaningReceipt",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="receipts",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("verified", fields.BooleanField()),
                ("simulated", fields.BooleanField(default=False)),
                (
                    "items",
                    fields.JSONField(
                        default=list,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("finished_at", fields.BigIntField()),
                (
                    "overridden_by",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="overridden_by_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="receipts_overridden",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
                ("reason", fields.CharField(null=True, max_length=500)),
            ],
            options={
                "table": "cleaning_receipt",
                "app": "remotegpu",
                "indexes": [Index(fields=["overridden_by_id"])],
                "pk_attr": "id",
                "table_description": "What was found, removed and looked at again when an allocation ended.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "constraints": [
                    UniqueConstraint(fields=("owner", "name_key"), name="dataset_name_once"),
                    CheckConstraint(
                        check="(kind = 'DIRECTORY') = (machine_id IS NOT NULL)",
                        name="dataset_directory_of_a_machine",
                    ),
                    CheckConstraint(
                        check="(visibility = 'WORKSPACE') = (workspace_id IS NOT NULL)",
                        name="dataset_of_a_workspace",
                    ),
                ],
                "indexes": [
                    Index(fields=["name_key", "id"]),
                    Index(fields=["created_at", "id"]),
                    Index(fields=["machine_id"]),
                ],
                "pk_attr": "id",
                "table_description": "Data that lies somewhere, which those who may can have mounted where they compute.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "constraints": [
                    CheckConstraint(
                        check="(user_id IS NULL) <> (workspace_id IS NULL)",
                        name="dataset_grant_to_one",
                    ),
                    UniqueConstraint(fields=("dataset", "user"), name="dataset_grant_user_once"),
                    UniqueConstraint(
                        fields=("dataset", "workspace"), name="dataset_grant_workspace_once"
                    ),
                ],
                "pk_attr": "id",
                "table_description": "Lets a user, or everybody in a workspace, mount a dataset: exactly one of the two.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "constraints": [
                    CheckConstraint(
                        check="(user_id IS NULL) <> (workspace_id IS NULL)",
                        name="machine_grant_to_one",
                    ),
                    UniqueConstraint(fields=("machine", "user"), name="machine_grant_user_once"),
                    UniqueConstraint(
                        fields=("machine", "workspace"), name="machine_grant_workspace_once"
                    ),
                ],
                "indexes": [Index(fields=["user_id"]), Index(fields=["workspace_id"])],
                "pk_attr": "id",
                "table_description": "Lets a user, or everybody in a workspace, see and watch a machine: exactly one of the two.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "indexes": [Index(fields=["user_id"])],
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
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
                "indexes": [Index(fields=["machine_id", "state"]), Index(fields=["created_by_id"])],
                "pk_attr": "id",
                "table_description": "A dataset where an allocation's account sees it on its machine.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Occupancy",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="occupancies",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("resource_id", fields.UUIDField(db_index=True)),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="occupancies",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "gpu",
                    fields.ForeignKeyField(
                        "remotegpu.Gpu",
                        source_field="gpu_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="occupancies",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("opened_at", fields.BigIntField()),
                ("closed_at", fields.BigIntField(null=True)),
                (
                    "receipt",
                    fields.ForeignKeyField(
                        "remotegpu.CleaningReceipt",
                        source_field="receipt_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="occupancies",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
            ],
            options={
                "table": "occupancy",
                "app": "remotegpu",
                "constraints": [
                    CheckConstraint(
                        check="(closed_at IS NULL) = (receipt_id IS NULL)",
                        name="occupancy_closed_by_receipt",
                    )
                ],
                "indexes": [Index(fields=["gpu_id"]), Index(fields=["receipt_id"])],
                "pk_attr": "id",
                "table_description": "A resource that is in somebody's hands, from activation to the receipt.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Operation",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                ("kind", fields.CharField(max_length=64)),
                (
                    "state",
                    fields.CharEnumField(
                        default=OperationState.PENDING,
                        description="PENDING: PENDING\nRUNNING: RUNNING\nSUCCEEDED: SUCCEEDED\nFAILED: FAILED\nCANCELLED: CANCELLED\nINDETERMINATE: INDETERMINATE",
                        enum_type=OperationState,
                        max_length=16,
                    ),
                ),
                ("progress", fields.FloatField(default=0.0, description="From 0 to 1.")),
                (
                    "machine",
                    fields.ForeignKeyField(
                        "remotegpu.Machine",
                        source_field="machine_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="operations",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "allocation_id",
                    fields.UUIDField(
                        null=True,
                        db_index=True,
                        description="Not a foreign key: operations outlive what they were about.",
                    ),
                ),
                (
                    "user",
                    fields.ForeignKeyField(
                        "remotegpu.User",
                        source_field="user_id",
                        null=True,
                        description="Whose it is: they may see and cancel it, besides the admins.",
                        db_constraint=True,
                        to_field="id",
                        related_name="operations",
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
                        related_name="operations",
                        on_delete=OnDelete.SET_NULL,
                    ),
                ),
                ("created_at", fields.BigIntField()),
                ("finished_at", fields.BigIntField(null=True)),
                ("cancel_requested_at", fields.BigIntField(null=True)),
                ("error_code", fields.CharField(null=True, max_length=64)),
                ("error_message", fields.CharField(null=True, max_length=2000)),
                ("revision", fields.IntField(default=0)),
                ("change", fields.BigIntField(default=0, db_index=True)),
            ],
            options={
                "table": "operation",
                "app": "remotegpu",
                "indexes": [Index(fields=["machine_id"]), Index(fields=["workspace_id"])],
                "pk_attr": "id",
                "table_description": "Something that takes time. `revision` grows by one with whatever changes in it or its steps.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Command",
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
                        related_name="commands",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("sequence", fields.BigIntField(unique=True)),
                ("kind", fields.CharField(max_length=64)),
                (
                    "arguments",
                    fields.JSONField(
                        encoder=functools.partial(dumps, separators=(",", ":")), decoder=loads
                    ),
                ),
                (
                    "deadline",
                    fields.BigIntField(
                        description="Milliseconds since the Unix epoch, on the control plane's clock: not begun after it."
                    ),
                ),
                ("allocation_id", fields.UUIDField(null=True, db_index=True)),
                ("generation", fields.IntField(default=0)),
                (
                    "operation",
                    fields.ForeignKeyField(
                        "remotegpu.Operation",
                        source_field="operation_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="commands",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "state",
                    fields.CharEnumField(
                        default=CommandState.QUEUED,
                        description="QUEUED: QUEUED\nSENT: SENT\nACCEPTED: ACCEPTED\nRUNNING: RUNNING\nSUCCEEDED: SUCCEEDED\nFAILED: FAILED\nREFUSED: REFUSED\nEXPIRED: EXPIRED\nCANCELLED: CANCELLED\nINDETERMINATE: INDETERMINATE",
                        enum_type=CommandState,
                        max_length=16,
                    ),
                ),
                ("created_at", fields.BigIntField()),
                (
                    "sent_at",
                    fields.BigIntField(null=True, description="When it was first given to a link."),
                ),
                ("accepted_at", fields.BigIntField(null=True)),
                ("finished_at", fields.BigIntField(null=True)),
                ("cancel_requested_at", fields.BigIntField(null=True)),
                (
                    "result",
                    fields.JSONField(
                        null=True,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("error_code", fields.CharField(null=True, max_length=64)),
                ("error_message", fields.CharField(null=True, max_length=2000)),
            ],
            options={
                "table": "command",
                "app": "remotegpu",
                "indexes": [
                    Index(fields=["machine_id", "state", "sequence"]),
                    Index(fields=["operation_id"]),
                ],
                "pk_attr": "id",
                "table_description": "The outbox: something that a host is to do, written with the change that wants it done.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="OperationStep",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "operation",
                    fields.ForeignKeyField(
                        "remotegpu.Operation",
                        source_field="operation_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="steps",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("position", fields.IntField()),
                ("name", fields.CharField(max_length=64)),
                (
                    "state",
                    fields.CharEnumField(
                        default=StepState.PENDING,
                        description="PENDING: PENDING\nRUNNING: RUNNING\nSUCCEEDED: SUCCEEDED\nFAILED: FAILED\nSKIPPED: SKIPPED",
                        enum_type=StepState,
                        max_length=16,
                    ),
                ),
                ("started_at", fields.BigIntField(null=True)),
                ("finished_at", fields.BigIntField(null=True)),
                ("detail", fields.CharField(null=True, max_length=2000)),
                ("error_code", fields.CharField(null=True, max_length=64)),
                ("error_message", fields.CharField(null=True, max_length=2000)),
            ],
            options={
                "table": "operation_step",
                "app": "remotegpu",
                "unique_together": (("operation", "position"),),
                "pk_attr": "id",
                "table_description": "One step of an operation, in the order of `position`, with a name for people.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="QuarantineCause",
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
                        related_name="causes",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "gpu",
                    fields.ForeignKeyField(
                        "remotegpu.Gpu",
                        source_field="gpu_id",
                        null=True,
                        description="The GPU that it is about, null when it is about the host.",
                        db_constraint=True,
                        to_field="id",
                        related_name="causes",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "allocation",
                    fields.ForeignKeyField(
                        "remotegpu.Allocation",
                        source_field="allocation_id",
                        null=True,
                        description="The allocation that could not be cleaned.",
                        db_constraint=True,
                        to_field="id",
                        related_name="causes",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                (
                    "code",
                    fields.CharField(
                        description="One of `services.quarantine.CauseCode`.", max_length=32
                    ),
                ),
                (
                    "message",
                    fields.CharField(
                        description="What is wrong, for all users who see the machine.",
                        max_length=500,
                    ),
                ),
                (
                    "since",
                    fields.BigIntField(
                        description="When it began, in milliseconds since the Unix epoch. A new message changes nothing in it."
                    ),
                ),
            ],
            options={
                "table": "quarantine_cause",
                "app": "remotegpu",
                "indexes": [Index(fields=["gpu_id"]), Index(fields=["allocation_id"])],
                "pk_attr": "id",
                "table_description": "One reason to keep a machine out of use. `services.quarantine` alone writes these rows.",
            },
            bases=["Model"],
        ),
        migration.CreateModel(
            name="Quota",
            fields=[
                (
                    "id",
                    fields.UUIDField(primary_key=True, default=new_id, unique=True, db_index=True),
                ),
                (
                    "user",
                    fields.OneToOneField(
                        "remotegpu.User",
                        source_field="user_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="quota",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                (
                    "workspace",
                    fields.OneToOneField(
                        "remotegpu.Workspace",
                        source_field="workspace_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="quota",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("gpus", fields.IntField(null=True)),
                ("allocations", fields.IntField(null=True)),
                (
                    "gpu_hours",
                    fields.IntField(
                        null=True,
                        description="GPU-hours that may be booked in a calendar month (UTC).",
                    ),
                ),
            ],
            options={
                "table": "quota",
                "app": "remotegpu",
                "constraints": [
                    CheckConstraint(
                        check="(user_id IS NULL) <> (workspace_id IS NULL)", name="quota_of_one"
                    )
                ],
                "pk_attr": "id",
                "table_description": "What a user, or a workspace, may have at a time: exactly one of the two.",
            },
            bases=["Model"],
        ),
    ]

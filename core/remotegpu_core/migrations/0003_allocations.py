import functools
from json import dumps, loads

from tortoise import fields
from tortoise.fields.base import OnDelete
from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration
from remotegpu_core.ids import new_id
from remotegpu_core.states import AllocationState, CommandState, OperationState, StepState


class Migration(migration.Migration):
    """Allocations, the commands that carry them to hosts, and the operations that show them."""

    dependencies = [("remotegpu", "0002_constraints")]

    initial = False

    operations = [
        ops.CreateModel(
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
            ],
            options={
                "table": "allocation",
                "app": "remotegpu",
                "indexes": [
                    Index(fields=["state", "starts_at"]),
                    Index(fields=["state", "ends_at"]),
                ],
                "pk_attr": "id",
                "table_description": "A user's right to a machine, or to GPUs of it, for a time: [starts_at, ends_at).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
        ops.CreateModel(
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
                "pk_attr": "id",
                "table_description": "A resource, that is a GPU or a whole machine, promised for a time: [starts_at, ends_at).",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
                "pk_attr": "id",
                "table_description": "What was found, removed and looked at again when an allocation ended.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
        ops.CreateModel(
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
                "pk_attr": "id",
                "table_description": "A resource that is in somebody's hands, from activation to the receipt.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
                "pk_attr": "id",
                "table_description": "Something that takes time. `revision` grows by one with whatever changes in it or its steps.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
                "indexes": [Index(fields=["machine_id", "state", "sequence"])],
                "pk_attr": "id",
                "table_description": "The outbox: something that a host is to do, written with the change that wants it done.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
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
        ops.CreateModel(
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
                "pk_attr": "id",
                "table_description": "What a user, or a workspace, may have at a time: exactly one of the two.",
            },
            bases=["Model"],
        ),
        ops.AddField(
            model_name="Machine",
            name="command_hold",
            field=fields.CharField(
                null=True,
                description="Why no command is sent until an admin accepts the host: see `services.journals`.",
                max_length=500,
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="draining",
            field=fields.BooleanField(
                default=False,
                db_default=False,
                description="No new allocation is placed here, those that there are go on.",
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="event_sequence",
            field=fields.BigIntField(default=0, db_default=0),
        ),
        ops.AddField(
            model_name="Machine",
            name="journal_id",
            field=fields.CharField(
                null=True,
                description="The agent's journal of commands, and the last of its events that was applied.",
                max_length=128,
            ),
        ),
        ops.AddField(
            model_name="Machine",
            name="lifecycle_reason",
            field=fields.CharField(
                null=True,
                description="Why the operators took it out of service, or why it is quarantined.",
                max_length=500,
            ),
        ),
    ]

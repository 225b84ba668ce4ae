from typing import Any
from uuid import UUID

from tortoise import fields
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Workspace
from remotegpu_core.states import Health, Lifecycle, Presence


class Machine(Model):
    """A host that was enrolled.

    `presence`, `lifecycle` and `health` change by the table in `states`. `epoch` numbers the
    connections of its agent, `replica_id` names the process that holds the newest one.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    name = fields.CharField(max_length=63)
    name_key = fields.CharField(max_length=63, unique=True)
    # One machine's: unique by an index of the migrations.
    public_key = fields.BinaryField()
    #: SMBIOS UUID, null where the firmware has none worth the name.
    hardware_uuid = fields.CharField(max_length=36, null=True, unique=True)
    boot_id = fields.CharField(max_length=255, null=True)
    #: Boots of before, newest first: one that comes back tells of a second host with one key.
    former_boot_ids: list[str] | None = fields.JSONField(null=True)
    agent_version = fields.CharField(max_length=255, null=True)
    epoch = fields.BigIntField(default=0)
    replica_id = fields.UUIDField(null=True)
    presence = fields.CharEnumField(Presence, max_length=16, default=Presence.UNREACHABLE)
    lifecycle = fields.CharEnumField(Lifecycle, max_length=16, default=Lifecycle.IN_SERVICE)
    health = fields.CharEnumField(Health, max_length=16, default=Health.HEALTHY)
    health_reasons: list[str] = fields.JSONField(default=list)
    #: When the agent was last heard, as far as the database knows: live values are on the bus.
    last_seen_at = fields.BigIntField(null=True)
    #: The host's part of the last inventory, as `remotegpu_protocol.inventory.HostInventory`.
    host: dict[str, Any] = fields.JSONField(default=dict)
    inventory_at = fields.BigIntField(null=True)
    created_at = fields.BigIntField()
    #: No new allocation is placed here, those that there are go on.
    draining = fields.BooleanField(default=False, db_default=False)
    #: Whether the host lets itself be allocated, and whether in parts: as its inventory says, so
    #: that a search need not read it.
    allocatable = fields.BooleanField(default=True, db_default=True)
    shareable = fields.BooleanField(default=True, db_default=True)
    #: Why the operators took it out of service, or why it is quarantined.
    lifecycle_reason = fields.CharField(max_length=500, null=True)
    #: The agent's journal of commands, and the last of its events that was applied.
    journal_id = fields.CharField(max_length=128, null=True)
    event_sequence = fields.BigIntField(default=0, db_default=0)
    # What an admin who accepts a held host accepts: the journal that its newest connection named, and
    # the last event of it that the host knows to be applied.
    offered_journal_id = fields.CharField(max_length=128, null=True)
    offered_acknowledged = fields.BigIntField(null=True)
    #: The epoch that began when an admin last accepted the host.
    accepted_epoch = fields.BigIntField(default=0, db_default=0)
    #: Why no command is sent until an admin accepts the host: see `services.journals`.
    command_hold = fields.CharField(max_length=500, null=True)
    #: The address that its newest link came from, as the server saw it.
    link_address = fields.CharField(max_length=45, null=True)
    #: The hardware UUID that the host reports although another machine has it, and when an admin
    #: allowed that.
    claimed_hardware_uuid = fields.CharField(max_length=36, null=True)
    hardware_accepted_at = fields.BigIntField(null=True)
    #: Starts that failed since the last one that succeeded, and why the newest of them did.
    failed_starts = fields.IntField(default=0, db_default=0)
    failed_start = fields.CharField(max_length=300, null=True)

    class Meta(Model.Meta):
        table = "machine"
        indexes = (("created_at", "id"),)


class MachineLabel(Model):
    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="labels", on_delete=fields.CASCADE
    )
    machine_id: UUID
    key = fields.CharField(max_length=63)
    value = fields.CharField(max_length=255)

    class Meta(Model.Meta):
        table = "machine_label"
        unique_together = (("machine", "key"),)
        indexes = (("key", "value"),)


class Gpu(Model):
    """A card in a machine.

    A UUID is on one machine at a time: unique among the rows that are not removed, by a partial
    index of the migrations. What a second machine reports of it is a row that counts as removed and
    has `claimed_at`, see `services.gpu_claims`.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="gpus", on_delete=fields.CASCADE
    )
    machine_id: UUID
    index = fields.IntField()
    uuid = fields.CharField(max_length=128)
    model = fields.CharField(max_length=255)
    memory_total = fields.BigIntField(null=True)
    health = fields.CharEnumField(Health, max_length=16, default=Health.HEALTHY)
    health_reason = fields.TextField(null=True)
    #: The rest of the inventory, as `remotegpu_protocol.inventory.GpuInventory`.
    details: dict[str, Any] = fields.JSONField(default=dict)
    created_at = fields.BigIntField()
    removed_at = fields.BigIntField(null=True)
    #: Since when its host reports it although another machine has it.
    claimed_at = fields.BigIntField(null=True)
    #: Since when another machine's equal claim keeps it out of use.
    disputed_at = fields.BigIntField(null=True)
    #: When an admin said that it is in this machine.
    decided_at = fields.BigIntField(null=True)

    class Meta(Model.Meta):
        table = "gpu"
        indexes = (("machine_id", "removed_at"), ("model", "id"))


class GpuGroup(Model):
    """The GPUs of one model and memory size in a machine, counted.

    Triggers keep it, from the rows of `gpu`: a question about the whole fleet reads one row of a
    machine instead of eight.
    """

    id = fields.BigIntField(primary_key=True)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="gpu_groups", on_delete=fields.CASCADE
    )
    machine_id: UUID
    model = fields.CharField(max_length=255)
    #: In bytes, of each, and 0 where the driver does not say.
    memory_total = fields.BigIntField()
    #: GPUs that are not removed, and those of them that are not UNHEALTHY.
    gpus = fields.IntField()
    usable = fields.IntField()

    class Meta(Model.Meta):
        table = "gpu_group"
        unique_together = (("machine", "model", "memory_total"),)


class MachineGrant(Model):
    """Lets a user, or everybody in a workspace, see and watch a machine: exactly one of the two."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="grants", on_delete=fields.CASCADE
    )
    machine_id: UUID
    user: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="machine_grants", on_delete=fields.CASCADE, null=True
    )
    user_id: UUID | None
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="machine_grants", on_delete=fields.CASCADE, null=True
    )
    workspace_id: UUID | None
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "machine_grant"
        indexes = (("user_id",), ("workspace_id",))
        constraints = (
            CheckConstraint(
                name="machine_grant_to_one",
                check="(user_id IS NULL) <> (workspace_id IS NULL)",
            ),
            UniqueConstraint(fields=("machine", "user"), name="machine_grant_user_once"),
            UniqueConstraint(fields=("machine", "workspace"), name="machine_grant_workspace_once"),
        )


class MachineChange(Model):
    """The log behind `machineChanged`: what happened to which machine, in commit order."""

    sequence = fields.BigIntField(primary_key=True, generated=False)
    machine_id = fields.UUIDField(db_index=True)
    kind = fields.CharField(max_length=32)
    at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "machine_change"

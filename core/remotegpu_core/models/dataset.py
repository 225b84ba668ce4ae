from uuid import UUID

from tortoise import fields
from tortoise.migrations.constraints import CheckConstraint, UniqueConstraint
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.allocation import Allocation
from remotegpu_core.models.machine import Machine
from remotegpu_core.models.user import User
from remotegpu_core.models.workspace import Workspace
from remotegpu_core.states import DatasetAccess, DatasetVisibility, MountState
from remotegpu_protocol.datasets import SourceKind


class Dataset(Model):
    """Data that lies somewhere, which those who may can have mounted where they compute.

    `location` is of the form that its `kind` has (see `remotegpu_protocol.datasets`). A directory
    is one of `machine`, and no other kind has one. Credentials are never here.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    owner: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="datasets", on_delete=fields.RESTRICT
    )
    owner_id: UUID
    name = fields.CharField(max_length=64)
    #: In lower case, unique among its owner's.
    name_key = fields.CharField(max_length=64)
    kind = fields.CharEnumField(SourceKind, max_length=16)
    location = fields.CharField(max_length=1024)
    #: Of a bucket that is not Amazon's.
    endpoint = fields.CharField(max_length=1024, null=True)
    machine: fields.ForeignKeyNullableRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="datasets", on_delete=fields.RESTRICT, null=True
    )
    machine_id: UUID | None
    visibility = fields.CharEnumField(DatasetVisibility, max_length=16)
    #: Whose members see it, with the visibility WORKSPACE.
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="datasets", on_delete=fields.RESTRICT, null=True
    )
    workspace_id: UUID | None
    #: Bytes and objects when it was last measured, or else why that is not known.
    size = fields.BigIntField(null=True)
    object_count = fields.BigIntField(null=True)
    size_reason = fields.CharField(max_length=500, null=True)
    measured_at = fields.BigIntField(null=True)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "dataset"
        indexes = (("name_key", "id"), ("created_at", "id"), ("machine_id",))
        constraints = (
            UniqueConstraint(fields=("owner", "name_key"), name="dataset_name_once"),
            CheckConstraint(
                name="dataset_directory_of_a_machine",
                check="(kind = 'DIRECTORY') = (machine_id IS NOT NULL)",
            ),
            CheckConstraint(
                name="dataset_of_a_workspace",
                check="(visibility = 'WORKSPACE') = (workspace_id IS NOT NULL)",
            ),
        )


class DatasetGrant(Model):
    """Lets a user, or everybody in a workspace, mount a dataset: exactly one of the two."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    dataset: fields.ForeignKeyRelation[Dataset] = fields.ForeignKeyField(
        "remotegpu.Dataset", related_name="grants", on_delete=fields.CASCADE
    )
    dataset_id: UUID
    user: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="dataset_grants", on_delete=fields.CASCADE, null=True
    )
    user_id: UUID | None
    workspace: fields.ForeignKeyNullableRelation[Workspace] = fields.ForeignKeyField(
        "remotegpu.Workspace", related_name="dataset_grants", on_delete=fields.CASCADE, null=True
    )
    workspace_id: UUID | None
    access = fields.CharEnumField(DatasetAccess, max_length=16)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "dataset_grant"
        constraints = (
            CheckConstraint(
                name="dataset_grant_to_one",
                check="(user_id IS NULL) <> (workspace_id IS NULL)",
            ),
            UniqueConstraint(fields=("dataset", "user"), name="dataset_grant_user_once"),
            UniqueConstraint(fields=("dataset", "workspace"), name="dataset_grant_workspace_once"),
        )


class Mount(Model):
    """A dataset where an allocation's account sees it on its machine.

    No two that are not over have one path on a machine: a partial unique index of the migrations.
    The account is that of the allocation's user, whose access to the dataset it rests on.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    # A dataset goes only when nothing of it is mounted, and takes what is over along by hand.
    dataset: fields.ForeignKeyRelation[Dataset] = fields.ForeignKeyField(
        "remotegpu.Dataset", related_name="mounts", on_delete=fields.RESTRICT
    )
    dataset_id: UUID
    allocation: fields.ForeignKeyRelation[Allocation] = fields.ForeignKeyField(
        "remotegpu.Allocation", related_name="mounts", on_delete=fields.RESTRICT
    )
    allocation_id: UUID
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="mounts", on_delete=fields.RESTRICT
    )
    machine_id: UUID
    path = fields.CharField(max_length=1024)
    read_only = fields.BooleanField()
    state = fields.CharEnumField(MountState, max_length=16, default=MountState.PENDING)
    created_by: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="mounts_made", on_delete=fields.SET_NULL, null=True
    )
    created_by_id: UUID | None
    #: That mounts it, and later that unmounts it. Not a foreign key: operations are pruned.
    operation_id = fields.UUIDField(null=True)
    created_at = fields.BigIntField()
    mounted_at = fields.BigIntField(null=True)
    ended_at = fields.BigIntField(null=True)
    #: When its host was last told to unmount it.
    unmount_at = fields.BigIntField(null=True)
    #: Why it failed, why it was taken away, or why it is still there.
    error_code = fields.CharField(max_length=64, null=True)
    error_message = fields.CharField(max_length=2000, null=True)

    class Meta(Model.Meta):
        table = "mount"
        indexes = (("machine_id", "state"), ("created_by_id",))

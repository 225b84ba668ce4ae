"""A small world in which everybody's rights differ, and what there is to have rights on."""

import secrets
from dataclasses import dataclass, field
from typing import Final

from tortoise.connection import get_connection

from remotegpu_core.actor import SYSTEM, Actor, Role, Scope, anonymous
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import (
    Allocation,
    ApiToken,
    AuditEvent,
    CleaningReceipt,
    Dataset,
    Enrollment,
    Mount,
    Operation,
    SshKey,
    User,
    Workspace,
    WorkspaceRole,
)
from remotegpu_core.services import audit
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_core.services.api_tokens import revoke_api_token
from remotegpu_core.services.enrollments import create_enrollment
from remotegpu_core.services.quotas import Limits, set_quota
from remotegpu_core.services.ssh_keys import add_ssh_key
from remotegpu_core.services.workspaces import set_member
from remotegpu_core.states import DatasetVisibility, MountState
from remotegpu_graphql.ids import encode_id
from remotegpu_protocol.datasets import SourceKind
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import (
    HOUR,
    SOURCE,
    actor_of,
    api_token,
    make_key_line,
    make_user,
    make_workspace,
    session_token,
)

ANONYMOUS: Final = "anonymous"
STRANGER: Final = "user without grant"
GRANTED: Final = "user with a grant"
MEMBER: Final = "workspace member"
WORKSPACE_ADMIN: Final = "workspace admin"
WORKSPACE_OWNER: Final = "workspace owner"
OWNER: Final = "owner of the object"
ADMIN: Final = "admin"
ADMIN_READ: Final = "admin, READ token"
ADMIN_WRITE: Final = "admin, WRITE token"
USER_WRITE: Final = "user with a grant, WRITE token"
REVOKED: Final = "revoked"

CALLERS: Final = (
    ANONYMOUS,
    STRANGER,
    GRANTED,
    MEMBER,
    WORKSPACE_ADMIN,
    WORKSPACE_OWNER,
    OWNER,
    ADMIN,
    ADMIN_READ,
    ADMIN_WRITE,
    USER_WRITE,
    REVOKED,
)


@dataclass
class World:
    """One of everything that can be asked for, and a token for every caller but anonymous."""

    plane: ControlPlane
    host: Host
    owner: User
    stranger: User
    member: User
    owned_token: ApiToken
    workspace: Workspace
    enrollment: Enrollment
    event: AuditEvent
    #: Recognisable wherever it turns up.
    marker: str
    tokens: dict[str, str] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    #: Something that waits, of the owner's, for every caller to act on.
    allocations: dict[str, Allocation] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    #: A key of the owner's, for every caller to remove.
    ssh_keys: dict[str, SshKey] = field(default_factory=dict)
    #: A dataset of the owner's that nobody else knows, for every caller to act on.
    datasets: dict[str, Dataset] = field(default_factory=dict)
    #: Of the first of them on the first of the allocations, and over.
    mounts: list[Mount] = field(default_factory=list)
    #: Of the same allocation.
    receipts: list[CleaningReceipt] = field(default_factory=list)
    #: A member of the workspace for every caller to remove.
    members: dict[str, User] = field(default_factory=dict)

    async def actor(self, caller: str) -> Actor:
        """The caller as a transport would know them, from their token.

        Raises:
            Unauthenticated: their token is no good any more.
        """
        token = self.tokens.get(caller)
        return anonymous(SOURCE) if token is None else await actor_of(token)

    def id(self, type_name: str) -> str:
        """The id of the world's one object of a type."""
        rows = {
            "Machine": self.host.machine.id,
            "Gpu": self.host.gpus[0].id,
            "User": self.owner.id,
            "ApiToken": self.owned_token.id,
            "SshKey": self.ssh_keys[ANONYMOUS].id,
            "Workspace": self.workspace.id,
            "Enrollment": self.enrollment.id,
            "AuditEvent": self.event.id,
            "Allocation": self.allocations[ANONYMOUS].id,
            "Operation": self.operations[ANONYMOUS].id,
            "Dataset": self.datasets[ANONYMOUS].id,
            "Mount": self.mounts[0].id,
            "AllocationReceipt": self.receipts[0].id,
        }
        return encode_id(type_name, rows[type_name])


async def make_world(plane: ControlPlane) -> World:
    marker = f"m{secrets.token_hex(6)}"
    host = await make_host(plane, f"{marker}-node", labels=[("rack", f"{marker}-rack")])
    await host.publish()
    users = {
        caller: await make_user(role=Role.ADMIN if caller.startswith("admin") else Role.USER)
        for caller in CALLERS
        if caller != ANONYMOUS
    }
    workspace = await make_workspace(users[MEMBER], name=f"{marker}-lab")
    for caller, role in (
        (WORKSPACE_ADMIN, WorkspaceRole.ADMIN),
        (WORKSPACE_OWNER, WorkspaceRole.OWNER),
    ):
        await set_member(SYSTEM, workspace.id, users[caller].id, role)
    await host.grant(user_id=users[GRANTED].id)
    await host.grant(user_id=users[USER_WRITE].id)
    await host.grant(user_id=users[REVOKED].id)
    await host.grant(workspace_id=workspace.id)
    _, owned = await api_token(users[OWNER], Scope.READ, name=f"{marker}-token")
    _, enrollment = await create_enrollment(SYSTEM, plane.settings, machine_name=f"{marker}-next")
    owner = await actor_of(await session_token(users[OWNER]))
    await audit.record(owner, "createApiToken", target=("ApiToken", owned.id))
    event = await AuditEvent.get(action="createApiToken", actor_id=users[OWNER].id)
    world = World(
        plane=plane,
        host=host,
        owner=users[OWNER],
        stranger=users[STRANGER],
        member=users[MEMBER],
        owned_token=owned,
        workspace=workspace,
        enrollment=enrollment,
        event=event,
        marker=marker,
        users=users,
        members={caller: await make_user() for caller in CALLERS},
    )
    for member in world.members.values():
        await set_member(SYSTEM, workspace.id, member.id, WorkspaceRole.MEMBER)
    await set_quota(SYSTEM, Limits(100, 100), user_id=users[OWNER].id, workspace_id=None)
    for caller in CALLERS:
        world.ssh_keys[caller] = await add_ssh_key(owner, caller, make_key_line())
        # It waits for a machine, so that nobody sees one on its account.
        world.allocations[caller], world.operations[caller] = await allocate(
            SYSTEM,
            plane.settings,
            AllocateRequest(
                ends_at=now_ms() + HOUR,
                requirement=Requirement(gpu_count=2),
                user_id=users[OWNER].id,
                wait=True,
            ),
        )
        world.datasets[caller] = Dataset(
            owner_id=users[OWNER].id,
            name=f"{marker} {caller}",
            name_key=f"{marker} {caller}",
            kind=SourceKind.NFS,
            location=f"{marker}.example.org:/export",
            visibility=DatasetVisibility.PRIVATE,
            created_at=now_ms(),
        )
    await Dataset.bulk_create(world.datasets.values())
    world.mounts = [
        await Mount.create(
            dataset_id=world.datasets[ANONYMOUS].id,
            allocation_id=world.allocations[ANONYMOUS].id,
            machine_id=host.machine.id,
            path="/data/x",
            read_only=True,
            state=MountState.UNMOUNTED,
            created_at=now_ms(),
        )
    ]
    world.receipts = [
        await CleaningReceipt.create(
            allocation_id=world.allocations[ANONYMOUS].id, verified=True, finished_at=now_ms()
        )
    ]
    scopes = {
        ADMIN_READ: Scope.READ,
        ADMIN_WRITE: Scope.WRITE,
        USER_WRITE: Scope.WRITE,
        REVOKED: Scope.WRITE,
    }
    for caller, user in users.items():
        if caller in scopes:
            world.tokens[caller], row = await api_token(user, scopes[caller])
            if caller == REVOKED:
                await revoke_api_token(SYSTEM, row.id)
        else:
            world.tokens[caller] = await session_token(user)
    return world


async def dump(*, without: frozenset[str] = frozenset()) -> dict[str, list[str]]:
    """Every row of every table but those of `without`, in no order that means anything."""
    connection = get_connection("default")
    if connection.capabilities.dialect == "sqlite":
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    else:
        names = "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'"
    tables = [row["name"] for row in await connection.execute_query_dict(names)]
    assert "machine_grant" in tables
    return {
        table: sorted(
            repr(sorted(row.items()))
            for row in await connection.execute_query_dict(f'SELECT * FROM "{table}"')  # noqa: S608 - the database's own names
        )
        for table in sorted(tables)
        if table not in without
    }

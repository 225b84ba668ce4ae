"""Who may use what: every root field and every type of node, for every kind of caller.

A field that is not here fails `test_permissions`. `how` asks for the world's one object.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from remotegpu_core.clock import now_ms
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.scalars import format_time
from tests.graphql_schema.people import HOUR, PASSWORD, make_key_line
from tests.graphql_schema.world import (
    ADMIN,
    ADMIN_READ,
    ADMIN_WRITE,
    ANONYMOUS,
    CALLERS,
    GRANTED,
    MEMBER,
    OWNER,
    REVOKED,
    USER_WRITE,
    WORKSPACE_ADMIN,
    WORKSPACE_OWNER,
    World,
)

#: It was done, and the object is in the answer.
OK: Final = "OK"
#: Nothing was wrong, and the object is not in the answer.
NOTHING: Final = "NOTHING"
UNAUTHENTICATED: Final = "UNAUTHENTICATED"
FORBIDDEN: Final = "FORBIDDEN"
NOT_FOUND: Final = "NOT_FOUND"
#: They may, and it cannot be.
CONFLICT: Final = "CONFLICT"

_NOBODY: Final = {ANONYMOUS: UNAUTHENTICATED, REVOKED: UNAUTHENTICATED}


def _seen_by(*callers: str, others: str = NOTHING) -> Mapping[str, str]:
    return {**dict.fromkeys(CALLERS, others), **_NOBODY, **dict.fromkeys(callers, OK)}


EVERYBODY_SIGNED_IN: Final = _seen_by(others=OK)
ADMINS_READ: Final = _seen_by(ADMIN, others=FORBIDDEN)
ADMINS_WRITE: Final = _seen_by(ADMIN, others=FORBIDDEN)
WRITERS: Final = {**_seen_by(others=OK), ADMIN_READ: FORBIDDEN}
IN_THE_WORKSPACE: Final = (MEMBER, WORKSPACE_ADMIN, WORKSPACE_OWNER)
SEES_THE_MACHINE: Final = (
    *IN_THE_WORKSPACE,
    *(GRANTED, USER_WRITE, ADMIN, ADMIN_READ, ADMIN_WRITE),
)
MACHINE: Final = _seen_by(*SEES_THE_MACHINE)
WORKSPACE: Final = _seen_by(*IN_THE_WORKSPACE, ADMIN)
ITS_USER: Final = _seen_by(OWNER, ADMIN)
#: What is allocated to the owner, whom no workspace knows.
ALLOCATION: Final = _seen_by(OWNER, ADMIN, ADMIN_READ, ADMIN_WRITE)
#: A token that has not the scope to act as an admin lets its user act as anybody.
MANAGES_ALLOCATION: Final = {
    **_seen_by(OWNER, ADMIN, others=NOT_FOUND),
    ADMIN_READ: FORBIDDEN,
    ADMIN_WRITE: FORBIDDEN,
}


def _in_the_workspace(*able: str) -> Mapping[str, str]:
    """A mutation of the workspace: it is not there for those who are not in it."""
    return {
        **_seen_by(*able, ADMIN, others=NOT_FOUND),
        **{caller: FORBIDDEN for caller in IN_THE_WORKSPACE if caller not in able},
        ADMIN_READ: FORBIDDEN,
    }


@dataclass(frozen=True, slots=True)
class Entry:
    """How a field is asked, and what comes of it.

    `shows` says whether the world's object is in the data of the field; without it, not being
    null is enough.
    """

    document: str
    outcomes: Mapping[str, str]
    variables: Callable[[World, str], dict[str, Any]] = lambda _world, _caller: {}
    shows: Callable[[World, Any], bool] = lambda _world, data: data is not None


def _ids(type_name: str) -> Callable[[World, str], dict[str, Any]]:
    return lambda world, _caller: {"id": world.id(type_name)}


def _unique(world: World, caller: str) -> str:
    return f"{world.marker}-{CALLERS.index(caller)}"


def _listed(type_name: str) -> Callable[[World, Any], bool]:
    return lambda world, data: world.id(type_name) in {edge["node"]["id"] for edge in data["edges"]}


def _input(make: Callable[[World, str], dict[str, Any]]) -> Callable[[World, str], dict[str, Any]]:
    return lambda world, caller: {"input": make(world, caller)}


_LIST: Final = "{ totalCount edges { node { id } } }"
_ERRORS: Final = "userErrors { field message code }"

_TOMORROW: Final = format_time(now_ms() + 24 * HOUR)
_ANY_GPU: Final = {"requirement": {"gpuCount": 1}, "endsAt": _TOMORROW}

ROOT_FIELDS: Final[Mapping[str, Entry]] = {
    "Query.viewer": Entry("{ viewer { user { id } } }", EVERYBODY_SIGNED_IN),
    "Query.node": Entry("query Q($id: ID!) { node(id: $id) { id } }", MACHINE, _ids("Machine")),
    "Query.nodes": Entry(
        "query Q($id: ID!) { nodes(ids: [$id]) { id } }",
        MACHINE,
        _ids("Machine"),
        lambda _world, data: data[0] is not None,
    ),
    "Query.machines": Entry(f"{{ machines {_LIST} }}", MACHINE, shows=_listed("Machine")),
    "Query.machine": Entry(
        "query Q($id: ID!) { machine(id: $id) { id } }", MACHINE, _ids("Machine")
    ),
    "Query.gpus": Entry(f"{{ gpus {_LIST} }}", MACHINE, shows=_listed("Gpu")),
    "Query.gpu": Entry("query Q($id: ID!) { gpu(id: $id) { id } }", MACHINE, _ids("Gpu")),
    # The list is empty in this world; `test_questions` tests what is in it.
    "Query.gpuMemoryByUser": Entry(
        "{ gpuMemoryByUser { username user { id } } }", EVERYBODY_SIGNED_IN
    ),
    "Query.fleet": Entry(
        "{ fleet { machines { total } gpus { total power } } }",
        MACHINE,
        shows=lambda _world, data: (
            data == {"machines": {"total": 1}, "gpus": {"total": 2, "power": 701.0}}
        ),
    ),
    # Nothing is frozen: who may ask is told null, as everybody is who may not see something.
    "Query.freeze": Entry("{ freeze { reason } }", _seen_by()),
    "Query.users": Entry(f"{{ users(first: 100) {_LIST} }}", ADMINS_READ, shows=_listed("User")),
    "Query.user": Entry("query Q($id: ID!) { user(id: $id) { id } }", ITS_USER, _ids("User")),
    "Query.workspace": Entry(
        "query Q($id: ID!) { workspace(id: $id) { id } }", WORKSPACE, _ids("Workspace")
    ),
    "Query.workspaces": Entry(f"{{ workspaces {_LIST} }}", WORKSPACE, shows=_listed("Workspace")),
    "Query.enrollments": Entry(
        f"{{ enrollments {_LIST} }}", ADMINS_READ, shows=_listed("Enrollment")
    ),
    "Query.auditEvents": Entry(
        f"{{ auditEvents(first: 100) {_LIST} }}",
        _seen_by(OWNER, ADMIN),
        shows=_listed("AuditEvent"),
    ),
    "Query.allocations": Entry(
        f"{{ allocations(first: 100) {_LIST} }}", ALLOCATION, shows=_listed("Allocation")
    ),
    "Query.allocation": Entry(
        "query Q($id: ID!) { allocation(id: $id) { id } }", ALLOCATION, _ids("Allocation")
    ),
    "Query.operation": Entry(
        "query Q($id: ID!) { operation(id: $id) { id } }", ALLOCATION, _ids("Operation")
    ),
    "Query.planAllocation": Entry(
        "query Q($input: AllocateInput!) { planAllocation(input: $input) { possible } }",
        EVERYBODY_SIGNED_IN,
        _input(lambda _world, _caller: _ANY_GPU),
    ),
    "Mutation.allocate": Entry(
        "mutation M($input: AllocateInput!) { allocate(input: $input) "
        f"{{ allocation {{ id }} operation {{ id }} {_ERRORS} }} }}",
        WRITERS,
        _input(lambda _world, _caller: {**_ANY_GPU, "wait": True}),
        lambda _world, data: data["allocation"] is not None and data["operation"] is not None,
    ),
    "Mutation.extendAllocation": Entry(
        "mutation M($input: ExtendAllocationInput!) { extendAllocation(input: $input) "
        f"{{ allocation {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, _caller: {"id": world.id("Allocation"), "endsAt": _TOMORROW}),
        lambda _world, data: data["allocation"] is not None,
    ),
    "Mutation.releaseAllocation": Entry(
        "mutation M($input: ReleaseAllocationInput!) { releaseAllocation(input: $input) "
        f"{{ allocation {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, c: {"id": encode_id("Allocation", world.allocations[c].id)}),
        lambda _world, data: data["allocation"] is not None,
    ),
    "Mutation.cancelOperation": Entry(
        "mutation M($input: CancelOperationInput!) { cancelOperation(input: $input) "
        f"{{ operation {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, c: {"id": encode_id("Operation", world.operations[c].id)}),
        lambda _world, data: data["operation"] is not None,
    ),
    "Mutation.retryReclaim": Entry(
        "mutation M($input: RetryReclaimInput!) { retryReclaim(input: $input) "
        f"{{ operation {{ id }} {_ERRORS} }} }}",
        # Nothing failed on this one: who may is told so.
        {**ADMINS_WRITE, ADMIN: CONFLICT},
        _input(lambda world, _caller: {"machineId": world.id("Machine")}),
        lambda _world, data: data["operation"] is not None,
    ),
    "Mutation.overrideQuarantine": Entry(
        "mutation M($input: OverrideQuarantineInput!) { overrideQuarantine(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        # This one is in service: who may is told so.
        {**ADMINS_WRITE, ADMIN: CONFLICT},
        _input(lambda world, _caller: {"machineId": world.id("Machine"), "reason": "wiped"}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.setQuota": Entry(
        "mutation M($input: SetQuotaInput!) { setQuota(input: $input) "
        f"{{ quota {{ gpus {{ limit }} }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"userId": world.id("User"), "gpus": 3}),
        lambda _world, data: data["quota"] is not None,
    ),
    "Mutation.signIn": Entry(
        f"mutation M($input: SignInInput!) {{ signIn(input: $input) {{ token {_ERRORS} }} }}",
        {**dict.fromkeys(CALLERS, OK), REVOKED: UNAUTHENTICATED},
        _input(
            lambda world, caller: {
                "username": world.users.get(caller, world.stranger).username,
                "password": PASSWORD,
            }
        ),
        lambda _world, data: data["token"] is not None,
    ),
    "Mutation.signOut": Entry(
        f"mutation {{ signOut {{ user {{ id }} {_ERRORS} }} }}",
        # An API token has no session to end.
        {**WRITERS, ADMIN_WRITE: UNAUTHENTICATED, USER_WRITE: UNAUTHENTICATED},
        shows=lambda _world, data: data["user"] is not None,
    ),
    "Mutation.createUser": Entry(
        "mutation M($input: CreateUserInput!) { createUser(input: $input) "
        f"{{ user {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, caller: {"username": _unique(world, caller), "password": PASSWORD}),
        lambda _world, data: data["user"] is not None,
    ),
    "Mutation.changePassword": Entry(
        "mutation M($input: ChangePasswordInput!) { changePassword(input: $input) "
        f"{{ user {{ id }} {_ERRORS} }} }}",
        WRITERS,
        _input(lambda _world, _caller: {"currentPassword": PASSWORD, "newPassword": "an0ther-one"}),
        lambda _world, data: data["user"] is not None,
    ),
    "Mutation.createApiToken": Entry(
        "mutation M($input: CreateApiTokenInput!) { createApiToken(input: $input) "
        f"{{ apiToken {{ id }} {_ERRORS} }} }}",
        # Tokens make no tokens.
        {**WRITERS, ADMIN_WRITE: FORBIDDEN, USER_WRITE: FORBIDDEN},
        _input(lambda world, caller: {"name": _unique(world, caller), "scopes": ["READ"]}),
        lambda _world, data: data["apiToken"] is not None,
    ),
    "Mutation.revokeApiToken": Entry(
        "mutation M($input: RevokeApiTokenInput!) { revokeApiToken(input: $input) "
        f"{{ apiToken {{ id }} {_ERRORS} }} }}",
        {**_seen_by(OWNER, ADMIN, others=NOT_FOUND), ADMIN_READ: FORBIDDEN},
        _input(lambda world, _caller: {"id": world.id("ApiToken")}),
        lambda _world, data: data["apiToken"] is not None,
    ),
    "Mutation.addSshKey": Entry(
        "mutation M($input: AddSshKeyInput!) { addSshKey(input: $input) "
        f"{{ sshKey {{ id }} {_ERRORS} }} }}",
        WRITERS,
        _input(lambda _world, _caller: {"name": "laptop", "publicKey": make_key_line()}),
        lambda _world, data: data["sshKey"] is not None,
    ),
    "Mutation.removeSshKey": Entry(
        "mutation M($input: RemoveSshKeyInput!) { removeSshKey(input: $input) "
        f"{{ removedId {_ERRORS} }} }}",
        {**_seen_by(OWNER, ADMIN, others=NOT_FOUND), ADMIN_READ: FORBIDDEN},
        _input(lambda world, caller: {"id": encode_id("SshKey", world.ssh_keys[caller].id)}),
        lambda _world, data: data["removedId"] is not None,
    ),
    "Mutation.resetSshKeys": Entry(
        "mutation M($input: ResetSshKeysInput!) { resetSshKeys(input: $input) "
        f"{{ allocation {{ id }} operation {{ id }} {_ERRORS} }} }}",
        # It is on no host yet: who may is told so.
        {
            caller: CONFLICT if outcome == OK else outcome
            for caller, outcome in MANAGES_ALLOCATION.items()
        },
        _input(lambda world, _caller: {"allocationId": world.id("Allocation")}),
        lambda _world, data: data["operation"] is not None,
    ),
    "Query.datasets": Entry(
        f"{{ datasets(first: 100) {_LIST} }}", ALLOCATION, shows=_listed("Dataset")
    ),
    "Query.dataset": Entry(
        "query Q($id: ID!) { dataset(id: $id) { id } }", ALLOCATION, _ids("Dataset")
    ),
    "Mutation.registerDataset": Entry(
        "mutation M($input: RegisterDatasetInput!) { registerDataset(input: $input) "
        f"{{ dataset {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, caller: {
                "name": _unique(world, caller),
                "source": {"kind": "NFS", "location": "nas.example.org:/export"},
            }
        ),
        lambda _world, data: data["dataset"] is not None,
    ),
    "Mutation.updateDataset": Entry(
        "mutation M($input: UpdateDatasetInput!) { updateDataset(input: $input) "
        f"{{ dataset {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, _caller: {"id": world.id("Dataset"), "visibility": "PUBLIC"}),
        lambda _world, data: data["dataset"] is not None,
    ),
    "Mutation.measureDataset": Entry(
        "mutation M($input: MeasureDatasetInput!) { measureDataset(input: $input) "
        f"{{ dataset {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, _caller: {"id": world.id("Dataset")}),
        lambda _world, data: data["dataset"] is not None,
    ),
    "Mutation.removeDataset": Entry(
        "mutation M($input: RemoveDatasetInput!) { removeDataset(input: $input) "
        f"{{ removedId {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(lambda world, caller: {"id": encode_id("Dataset", world.datasets[caller].id)}),
        lambda _world, data: data["removedId"] is not None,
    ),
    "Mutation.grantDataset": Entry(
        "mutation M($input: GrantDatasetInput!) { grantDataset(input: $input) "
        f"{{ dataset {{ id }} {_ERRORS} }} }}",
        MANAGES_ALLOCATION,
        _input(
            lambda world, _caller: {
                "datasetId": world.id("Dataset"),
                "userId": world.id("User"),
                "access": "WRITE",
            }
        ),
        lambda _world, data: data["dataset"] is not None,
    ),
    "Mutation.revokeDatasetGrant": Entry(
        "mutation M($input: RevokeDatasetGrantInput!) { revokeDatasetGrant(input: $input) "
        f"{{ dataset {{ id }} {_ERRORS} }} }}",
        # There is no grant: who may is told so.
        {**MANAGES_ALLOCATION, OWNER: NOT_FOUND, ADMIN: NOT_FOUND},
        _input(
            lambda world, _caller: {"datasetId": world.id("Dataset"), "userId": world.id("User")}
        ),
        lambda _world, data: data["dataset"] is not None,
    ),
    "Mutation.mountDataset": Entry(
        "mutation M($input: MountDatasetInput!) { mountDataset(input: $input) "
        f"{{ mount {{ id }} operation {{ id }} {_ERRORS} }} }}",
        # The allocation is on no host yet: who may is told so.
        {
            caller: CONFLICT if outcome == OK else outcome
            for caller, outcome in MANAGES_ALLOCATION.items()
        },
        _input(
            lambda world, _caller: {
                "datasetId": world.id("Dataset"),
                "allocationId": world.id("Allocation"),
                "path": "/data/y",
            }
        ),
        lambda _world, data: data["mount"] is not None,
    ),
    "Mutation.unmountDataset": Entry(
        "mutation M($input: UnmountDatasetInput!) { unmountDataset(input: $input) "
        f"{{ mount {{ id }} operation {{ id }} {_ERRORS} }} }}",
        # It is over: who may is told so.
        {
            caller: CONFLICT if outcome == OK else outcome
            for caller, outcome in MANAGES_ALLOCATION.items()
        },
        _input(lambda world, _caller: {"id": world.id("Mount")}),
        lambda _world, data: data["mount"] is not None,
    ),
    "Mutation.createWorkspace": Entry(
        "mutation M($input: CreateWorkspaceInput!) { createWorkspace(input: $input) "
        f"{{ workspace {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, caller: {"name": _unique(world, caller)}),
        lambda _world, data: data["workspace"] is not None,
    ),
    "Mutation.renameWorkspace": Entry(
        "mutation M($input: RenameWorkspaceInput!) { renameWorkspace(input: $input) "
        f"{{ workspace {{ id }} {_ERRORS} }} }}",
        _in_the_workspace(WORKSPACE_OWNER),
        _input(
            lambda world, caller: {
                "workspaceId": world.id("Workspace"),
                "name": _unique(world, caller),
            }
        ),
        lambda _world, data: data["workspace"] is not None,
    ),
    "Mutation.setWorkspaceMember": Entry(
        "mutation M($input: SetWorkspaceMemberInput!) { setWorkspaceMember(input: $input) "
        f"{{ workspace {{ id }} {_ERRORS} }} }}",
        _in_the_workspace(WORKSPACE_OWNER),
        _input(
            lambda world, _caller: {
                "workspaceId": world.id("Workspace"),
                "userId": world.id("User"),
                "role": "OWNER",
            }
        ),
        lambda _world, data: data["workspace"] is not None,
    ),
    "Mutation.removeWorkspaceMember": Entry(
        "mutation M($input: RemoveWorkspaceMemberInput!) { removeWorkspaceMember(input: $input) "
        f"{{ workspace {{ id }} {_ERRORS} }} }}",
        _in_the_workspace(WORKSPACE_ADMIN, WORKSPACE_OWNER),
        _input(
            lambda world, caller: {
                "workspaceId": world.id("Workspace"),
                "userId": encode_id("User", world.members[caller].id),
            }
        ),
        lambda _world, data: data["workspace"] is not None,
    ),
    "Mutation.createEnrollment": Entry(
        "mutation M($input: CreateEnrollmentInput!) { createEnrollment(input: $input) "
        f"{{ enrollment {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, caller: {"machineName": _unique(world, caller)}),
        lambda _world, data: data["enrollment"] is not None,
    ),
    "Mutation.revokeEnrollment": Entry(
        "mutation M($input: RevokeEnrollmentInput!) { revokeEnrollment(input: $input) "
        f"{{ enrollment {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"id": world.id("Enrollment")}),
        lambda _world, data: data["enrollment"] is not None,
    ),
    "Mutation.grantMachine": Entry(
        "mutation M($input: GrantMachineInput!) { grantMachine(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, _caller: {
                "machineId": world.id("Machine"),
                "userId": world.id("User"),
            }
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.revokeMachineGrant": Entry(
        "mutation M($input: RevokeMachineGrantInput!) { revokeMachineGrant(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, _caller: {
                "machineId": world.id("Machine"),
                "workspaceId": world.id("Workspace"),
            }
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.setUserRole": Entry(
        "mutation M($input: SetUserRoleInput!) { setUserRole(input: $input) "
        f"{{ user {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"id": world.id("User"), "role": "ADMIN"}),
        lambda _world, data: data["user"] is not None,
    ),
    "Mutation.disableUser": Entry(
        "mutation M($input: DisableUserInput!) { disableUser(input: $input) "
        f"{{ user {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"id": world.id("User")}),
        lambda _world, data: data["user"] is not None,
    ),
    "Mutation.enableUser": Entry(
        "mutation M($input: EnableUserInput!) { enableUser(input: $input) "
        f"{{ user {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"id": world.id("User")}),
        lambda _world, data: data["user"] is not None,
    ),
    "Mutation.startMaintenance": Entry(
        "mutation M($input: StartMaintenanceInput!) { startMaintenance(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"machineId": world.id("Machine"), "reason": "fans"}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.drainMachine": Entry(
        "mutation M($input: DrainMachineInput!) { drainMachine(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"machineId": world.id("Machine")}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.renameMachine": Entry(
        "mutation M($input: RenameMachineInput!) { renameMachine(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, caller: {"machineId": world.id("Machine"), "name": _unique(world, caller)}
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.setMachineLabels": Entry(
        "mutation M($input: SetMachineLabelsInput!) { setMachineLabels(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, _caller: {
                "machineId": world.id("Machine"),
                "labels": [{"key": "a", "value": "b"}],
            }
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.setMachineAddresses": Entry(
        "mutation M($input: SetMachineAddressesInput!) { setMachineAddresses(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(
            lambda world, _caller: {
                "machineId": world.id("Machine"),
                "addresses": [{"address": "192.0.2.9", "kind": "MANAGEMENT"}],
            }
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.acceptMachineAddresses": Entry(
        "mutation M($input: AcceptMachineAddressesInput!) { acceptMachineAddresses(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        # Nobody else has an address of this one: who may is told so.
        {**ADMINS_WRITE, ADMIN: NOT_FOUND},
        _input(
            lambda world, _caller: {
                "machineId": world.id("Machine"),
                "addresses": ["192.0.2.9"],
                "reason": "floating",
            }
        ),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.assignGpu": Entry(
        "mutation M($input: AssignGpuInput!) { assignGpu(input: $input) "
        f"{{ gpu {{ id }} {_ERRORS} }} }}",
        # Its host reports no such GPU: who may is told so.
        {**ADMINS_WRITE, ADMIN: NOT_FOUND},
        _input(lambda world, _caller: {"machineId": world.id("Machine"), "uuid": "GPU-none"}),
        lambda _world, data: data["gpu"] is not None,
    ),
    "Mutation.retireMachine": Entry(
        "mutation M($input: RetireMachineInput!) { retireMachine(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        ADMINS_WRITE,
        _input(lambda world, _caller: {"machineId": world.id("Machine")}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.acceptHost": Entry(
        "mutation M($input: AcceptHostInput!) { acceptHost(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        # This one is not held: who may is told so.
        {**ADMINS_WRITE, ADMIN: CONFLICT},
        _input(lambda world, _caller: {"machineId": world.id("Machine")}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Mutation.endFreeze": Entry(
        f"mutation {{ endFreeze {{ freeze {{ reason }} {_ERRORS} }} }}",
        # Nothing is frozen.
        {**ADMINS_WRITE, ADMIN: CONFLICT},
        shows=lambda _world, data: data["freeze"] is not None,
    ),
    "Mutation.endMaintenance": Entry(
        "mutation M($input: EndMaintenanceInput!) { endMaintenance(input: $input) "
        f"{{ machine {{ id }} {_ERRORS} }} }}",
        # This one is in service: who may is told so.
        {**ADMINS_WRITE, ADMIN: CONFLICT},
        _input(lambda world, _caller: {"machineId": world.id("Machine")}),
        lambda _world, data: data["machine"] is not None,
    ),
    "Subscription.machineMetrics": Entry(
        "subscription S($id: ID!) { machineMetrics(machineIds: [$id]) { machineId } }",
        _seen_by(*SEES_THE_MACHINE, others=NOT_FOUND),
        _ids("Machine"),
    ),
    "Subscription.allocationChanged": Entry(
        "subscription { allocationChanged { kind } }", EVERYBODY_SIGNED_IN
    ),
    "Subscription.operationChanged": Entry(
        "subscription S($id: ID!) { operationChanged(operationId: $id) { id } }",
        _seen_by(OWNER, ADMIN, ADMIN_READ, ADMIN_WRITE, others=NOT_FOUND),
        _ids("Operation"),
    ),
    "Subscription.machineChanged": Entry(
        "subscription { machineChanged { kind } }", EVERYBODY_SIGNED_IN
    ),
    "Subscription.fleetChanged": Entry(
        "subscription { fleetChanged { machines { total } } }",
        MACHINE,
        shows=lambda _world, data: data["machines"]["total"] == 1,
    ),
}

NODES: Final[Mapping[str, Mapping[str, str]]] = {
    "Machine": MACHINE,
    "Gpu": MACHINE,
    "Allocation": ALLOCATION,
    "AllocationReceipt": ALLOCATION,
    "Operation": ALLOCATION,
    "User": ITS_USER,
    "ApiToken": _seen_by(OWNER, ADMIN),
    "SshKey": _seen_by(OWNER, ADMIN),
    "Dataset": ALLOCATION,
    "Mount": ALLOCATION,
    "Workspace": WORKSPACE,
    "Enrollment": _seen_by(ADMIN),
    "AuditEvent": _seen_by(OWNER, ADMIN),
}

#: Nobody is left out by a name that was misspelt.
assert all(
    set(row) == set(CALLERS)
    for row in [*NODES.values(), *(entry.outcomes for entry in ROOT_FIELDS.values())]
)

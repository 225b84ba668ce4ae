"""Ids that are malformed, of another type, or somebody else's, wherever one is taken."""

import base64
import string
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from graphql import GraphQLInputObjectType, GraphQLNonNull, GraphQLObjectType, get_named_type
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core.actor import Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.ids import new_id
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.ids import encode_id, split_id
from remotegpu_graphql.scalars import format_time
from remotegpu_graphql.schema import NODES
from tests.graphql_schema.asking import ask, following
from tests.graphql_schema.people import api_token, as_user, make_user
from tests.graphql_schema.world import ADMIN, OWNER, World, make_world

SCHEMA = Engine().schema
TYPES: Final = [node.__name__ for node in NODES]

#: What each argument that names an object takes.
INPUTS: Final[Mapping[str, str]] = {
    "revokeApiToken.id": "ApiToken",
    "setWorkspaceMember.workspaceId": "Workspace",
    "setWorkspaceMember.userId": "User",
    "removeWorkspaceMember.workspaceId": "Workspace",
    "removeWorkspaceMember.userId": "User",
    "renameWorkspace.workspaceId": "Workspace",
    "setUserRole.id": "User",
    "disableUser.id": "User",
    "enableUser.id": "User",
    "startMaintenance.machineId": "Machine",
    "endMaintenance.machineId": "Machine",
    "drainMachine.machineId": "Machine",
    "renameMachine.machineId": "Machine",
    "setMachineLabels.machineId": "Machine",
    "setMachineAddresses.machineId": "Machine",
    "acceptMachineAddresses.machineId": "Machine",
    "assignGpu.machineId": "Machine",
    "retireMachine.machineId": "Machine",
    "acceptHost.machineId": "Machine",
    "createEnrollment.machineId": "Machine",
    "revokeEnrollment.id": "Enrollment",
    "grantMachine.machineId": "Machine",
    "grantMachine.userId": "User",
    "grantMachine.workspaceId": "Workspace",
    "revokeMachineGrant.machineId": "Machine",
    "revokeMachineGrant.userId": "User",
    "revokeMachineGrant.workspaceId": "Workspace",
    "allocate.machineId": "Machine",
    "allocate.gpuIds": "Gpu",
    "allocate.userId": "User",
    "allocate.workspaceId": "Workspace",
    "extendAllocation.id": "Allocation",
    "removeSshKey.id": "SshKey",
    "resetSshKeys.allocationId": "Allocation",
    "releaseAllocation.id": "Allocation",
    "cancelOperation.id": "Operation",
    "retryReclaim.allocationId": "Allocation",
    "retryReclaim.machineId": "Machine",
    "overrideQuarantine.machineId": "Machine",
    "registerDataset.workspaceId": "Workspace",
    "registerDataset.ownerId": "User",
    "updateDataset.id": "Dataset",
    "updateDataset.workspaceId": "Workspace",
    "measureDataset.id": "Dataset",
    "removeDataset.id": "Dataset",
    "grantDataset.datasetId": "Dataset",
    "grantDataset.userId": "User",
    "grantDataset.workspaceId": "Workspace",
    "revokeDatasetGrant.datasetId": "Dataset",
    "revokeDatasetGrant.userId": "User",
    "revokeDatasetGrant.workspaceId": "Workspace",
    "mountDataset.datasetId": "Dataset",
    "mountDataset.allocationId": "Allocation",
    "unmountDataset.id": "Mount",
    "setQuota.userId": "User",
    "setQuota.workspaceId": "Workspace",
}
_LATER: Final = format_time(now_ms() + 86_400_000)
#: What else a mutation cannot do without.
REQUIRED: Final[Mapping[str, Mapping[str, Any]]] = {
    "renameWorkspace": {"name": "other"},
    "setUserRole": {"role": "USER"},
    "startMaintenance": {"reason": "fans"},
    "renameMachine": {"name": "other"},
    "setMachineLabels": {"labels": []},
    "setMachineAddresses": {"addresses": []},
    "assignGpu": {"uuid": "GPU-1"},
    "acceptMachineAddresses": {"addresses": ["10.0.0.7"], "reason": "floating"},
    "allocate": {"endsAt": _LATER},
    "extendAllocation": {"endsAt": _LATER},
    "overrideQuarantine": {"reason": "wiped"},
    "registerDataset": {"name": "other", "source": {"kind": "NFS", "location": "nas:/other"}},
    "mountDataset": {"path": "/data/x"},
}
LOOKUPS: Final = {
    "node": "any",
    "nodes": "any",
    "machine": "Machine",
    "gpu": "Gpu",
    "user": "User",
    "workspace": "Workspace",
    "allocation": "Allocation",
    "operation": "Operation",
    "dataset": "Dataset",
}

MALFORMED: Final = [
    "",
    " ",
    "1",
    "0",
    "-1",
    "null",
    "Machine",
    "Machine:1",
    "!!!!",
    "TWFjaGluZQ",
    "TWFjaGluZTo",
    "Ojo6",
    "é",
    "x" * 201,
    "A" * 100_000,
    "' OR 1=1 --",
    "../../etc/passwd",
    str(uuid.UUID(int=1)),
    encode_id("Machine", uuid.UUID(int=1))[:-1],
    encode_id("Machine", uuid.UUID(int=1)) + "A",
    encode_id("Machine", uuid.UUID(int=1)) + "\n",
    encode_id("Machine", uuid.UUID(int=1)) + "==",
    encode_id("Nothing", uuid.UUID(int=1)),
    encode_id("machine", uuid.UUID(int=1)),
    encode_id("Query", uuid.UUID(int=1)),
    encode_id("", uuid.UUID(int=1)),
]


def _id_inputs() -> Iterator[str]:
    mutation = SCHEMA.type_map["Mutation"]
    assert isinstance(mutation, GraphQLObjectType)
    for name, field in mutation.fields.items():
        for argument in field.args.values():
            type_ = get_named_type(argument.type)
            assert isinstance(type_, GraphQLInputObjectType)
            for key, input_field in type_.fields.items():
                if get_named_type(input_field.type).name == "ID":
                    yield f"{name}.{key}"


def test_every_argument_that_takes_an_id_is_tried() -> None:
    assert set(_id_inputs()) == set(INPUTS)
    query = SCHEMA.type_map["Query"]
    assert isinstance(query, GraphQLObjectType)
    assert LOOKUPS.keys() == {
        name
        for name, field in query.fields.items()
        if any(get_named_type(a.type).name == "ID" for a in field.args.values())
    }


def _bad_ids(type_name: str) -> list[str]:
    """Malformed ones, those of other types, and one of the type that nobody has."""
    others = [encode_id(other, new_id()) for other in TYPES if other != type_name]
    return [*MALFORMED, *others, *([encode_id(type_name, new_id())] if type_name in TYPES else [])]


def _mutation(name: str) -> str:
    capitalised = name[0].upper() + name[1:]
    return (
        f"mutation M($input: {capitalised}Input!) {{ {name}(input: $input) "
        "{ userErrors { field message code } } }"
    )


def _required(name: str, world: World) -> dict[str, Any]:
    """Good ids for everything that the mutation needs."""
    type_ = SCHEMA.type_map[f"{name[0].upper()}{name[1:]}Input"]
    assert isinstance(type_, GraphQLInputObjectType)
    return {
        **REQUIRED.get(name, {}),
        **{
            key: world.id(INPUTS[f"{name}.{key}"])
            for key, field in type_.fields.items()
            if isinstance(field.type, GraphQLNonNull) and f"{name}.{key}" in INPUTS
        },
    }


async def test_inputs(any_plane: ControlPlane) -> None:
    """NOT_FOUND with the field's path; never a coercion or an internal error."""
    world = await make_world(any_plane)
    admin = await world.actor(ADMIN)
    for where, type_name in INPUTS.items():
        name, _, key = where.partition(".")
        good = _required(name, world)
        if where in {"registerDataset.workspaceId", "updateDataset.workspaceId"}:
            good["visibility"] = "WORKSPACE"
        if name.endswith(("grantMachine", "MachineGrant")) and key == "machineId":
            good["userId"] = world.id("User")
        if name.endswith(("grantDataset", "DatasetGrant")) and key == "datasetId":
            good["userId"] = world.id("User")
        if where == "allocate.gpuIds":
            good["machineId"] = world.id("Machine")
        if where in {"allocate.userId", "allocate.workspaceId"}:
            good["requirement"] = {"gpuCount": 1}
        # Reading one is the same for all of them; finding it is not.
        bad_ids = _bad_ids(type_name)
        for bad in bad_ids if where == "revokeApiToken.id" else bad_ids[:: len(bad_ids) // 6]:
            body = await ask(world.plane, admin, _mutation(name), {"input": {**good, key: bad}})
            assert "errors" not in body, (where, bad[:80], body)
            (error,) = body["data"][name]["userErrors"]
            assert (error["code"], error["field"]) == ("NOT_FOUND", [key]), (where, bad[:80])
            assert len(error["message"]) < 200


async def test_lookups(any_plane: ControlPlane) -> None:
    """Null, without an error."""
    world = await make_world(any_plane)
    admin = await world.actor(ADMIN)
    lookups = {name: type_ for name, type_ in LOOKUPS.items() if type_ != "any"}
    each = " ".join(f"{name}(id: $id) {{ id }}" for name in lookups)
    query = f"query Q($id: ID!) {{ {each} node(id: $id) {{ id }} nodes(ids: [$id]) {{ id }} }}"
    for bad in [*MALFORMED, *(encode_id(name, new_id()) for name in TYPES)]:
        body = await ask(world.plane, admin, query, {"id": bad})
        assert "errors" not in body, (bad[:80], body)
        assert body["data"] == {**dict.fromkeys(lookups), "node": None, "nodes": [None]}
    # Ids of what is there, in lookups of another type.
    for name in TYPES:
        id_ = world.id(name)
        body = await ask(world.plane, admin, query, {"id": id_})
        assert body["data"] == {
            **{field: {"id": id_} if type_ == name else None for field, type_ in lookups.items()},
            "node": {"id": id_},
            "nodes": [{"id": id_}],
        }


async def test_other_tenants_ids(any_plane: ControlPlane) -> None:
    """Objects of others do not exist, for whoever may write and is no admin."""
    world = await make_world(any_plane)
    tenant = await make_user()
    _, row = await api_token(tenant, Scope.READ)
    theirs = encode_id("ApiToken", row.id)
    actor = await world.actor(OWNER)
    revoke = _mutation("revokeApiToken")
    body = await ask(world.plane, actor, revoke, {"input": {"id": theirs}})
    refused = body["data"]["revokeApiToken"]["userErrors"]
    none = {"input": {"id": encode_id("ApiToken", new_id())}}
    missing = await ask(world.plane, actor, revoke, none)
    assert refused == missing["data"]["revokeApiToken"]["userErrors"]
    assert (refused[0]["code"], refused[0]["field"]) == ("NOT_FOUND", ["id"])
    await row.refresh_from_db()
    assert row.revoked_at is None

    viewer = await as_user(tenant)
    body = await ask(
        world.plane,
        viewer,
        "query Q($ids: [ID!]!) { nodes(ids: $ids) { __typename } }",
        {"ids": [world.id(name) for name in TYPES]},
    )
    assert body["data"]["nodes"] == [None] * len(TYPES)


async def test_subscription(plane: ControlPlane) -> None:
    world = await make_world(plane)
    admin = await world.actor(ADMIN)
    watch = "subscription S($ids: [ID!]!) { machineMetrics(machineIds: $ids) { machineId } }"
    for bad in _bad_ids("Machine"):
        async with following(plane, admin, watch, {"ids": [world.id("Machine"), bad]}) as live:
            with pytest.raises(RequestRefused) as refused:
                await live.next()
        (error,) = refused.value.errors
        assert error.extensions == {"code": "NOT_FOUND", "field": ["machineIds"]}, bad[:80]


async def test_filters(any_plane: ControlPlane) -> None:
    world = await make_world(any_plane)
    admin = await world.actor(ADMIN)
    query = "query Q($filter: AuditFilter) { auditEvents(filter: $filter) { totalCount } }"
    for key in ("actorId", "targetId"):
        for bad in MALFORMED:
            # As for an object that is not there: a filter asks for nothing to exist.
            body = await ask(world.plane, admin, query, {"filter": {key: bad}})
            assert body["data"] == {"auditEvents": {"totalCount": 0}}, bad[:80]
        body = await ask(
            world.plane, admin, query, {"filter": {key: encode_id("Machine", new_id())}}
        )
        assert body["data"] == {"auditEvents": {"totalCount": 0}}


@pytest.mark.parametrize(
    ("field", "keys"),
    [("allocations", ["userId", "workspaceId", "machineId"]), ("datasets", ["workspaceId"])],
)
async def test_filters_of_lists(plane: ControlPlane, field: str, keys: list[str]) -> None:
    world = await make_world(plane)
    admin = await world.actor(ADMIN)
    kind = field[0].upper() + field[1:-1]
    query = f"query Q($filter: {kind}Filter) {{ {field}(filter: $filter) {{ totalCount }} }}"
    for key in keys:
        for bad in (*MALFORMED, encode_id("Gpu", new_id()), encode_id("User", new_id())):
            body = await ask(plane, admin, query, {"filter": {key: bad}})
            assert body["data"] == {field: {"totalCount": 0}}, (key, bad[:80])


async def test_numbers_as_ids(plane: ControlPlane) -> None:
    """GraphQL lets an ID be written as an integer."""
    world = await make_world(plane)
    admin = await world.actor(ADMIN)
    body = await ask(plane, admin, "{ node(id: 12) { id } machine(id: 0) { id } }")
    assert body["data"] == {"node": None, "machine": None}
    body = await ask(plane, admin, _mutation("revokeApiToken"), {"input": {"id": 7}})
    assert body["data"]["revokeApiToken"]["userErrors"][0]["code"] == "NOT_FOUND"


@given(st.sampled_from(TYPES), st.uuids())
def test_ids_are_opaque_and_come_back(type_name: str, row_id: uuid.UUID) -> None:
    id_ = encode_id(type_name, row_id)
    assert split_id(id_) == (type_name, row_id)
    assert id_.replace("-", "").replace("_", "").isalnum()
    assert str(row_id) not in id_


def test_an_object_has_one_id() -> None:
    row_id = uuid.UUID("0198c1f0-0000-7000-8000-0000000000ab")
    spellings = [
        f"Machine:{row_id}",
        f"Machine:{row_id.hex.upper()}",
        f"Machine:{{{row_id.hex}}}",
        f"Machine:urn:uuid:{row_id}",
    ]
    for text in spellings:
        assert split_id(base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")) is None, text
    # Its last character has four bits that base64 ignores.
    id_ = encode_id("Machine", row_id)
    twins = [id_[:-1] + last for last in string.ascii_letters + string.digits + "-_"]
    assert [twin for twin in twins if split_id(twin) == ("Machine", row_id)] == [id_]


@given(st.text(max_size=300))
def test_no_text_breaks_the_reading(text: str) -> None:
    found = split_id(text)
    assert found is None or encode_id(*found) == text

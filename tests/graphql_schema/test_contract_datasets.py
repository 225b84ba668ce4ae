"""The consumers' document on datasets, as it stands, and the rest of them in the graph."""

import json
from typing import Any

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Allocation, Dataset, Mount, WorkspaceRole
from remotegpu_core.services.datasets.revoking import end_baseless
from remotegpu_core.services.workspaces import remove_member, set_member
from remotegpu_graphql.ids import encode_id, split_id
from remotegpu_graphql.scalars import format_time
from tests.core.services.allocations.hosts import carry_out
from tests.core.services.datasets.places import MOUNTING
from tests.graphql_schema.asking import data_of
from tests.graphql_schema.contract import document
from tests.graphql_schema.counting import statements
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user, make_workspace
from tests.services.s3 import S3Server

FILE = document("MountDataset")
NAS = {"kind": "NFS", "location": "nas.example.org:/export/imagenet"}


async def _run(plane: ControlPlane, actor: Actor, name: str, /, **given: Any) -> dict[str, Any]:
    """The payload of a document's mutation."""
    data = await data_of(plane, actor, FILE, {"input": given}, operation=name)
    payload: dict[str, Any] = data[name[0].lower() + name[1:]]
    return payload


async def _change(plane: ControlPlane, actor: Actor, name: str, shown: str, /, **given: Any) -> Any:
    """The payload of a mutation that the document does not have."""
    document = (
        f"mutation M($input: {name[0].upper()}{name[1:]}Input!) {{ {name}(input: $input) "
        f"{{ {shown} userErrors {{ field code }} }} }}"
    )
    return (await data_of(plane, actor, document, {"input": given}))[name]


async def _allocated(plane: ControlPlane, host: Host, actor: Actor, **given: Any) -> str:
    """An ACTIVE allocation of all of the host."""
    given = {"machineId": host.id, "endsAt": format_time(now_ms() + HOUR), **given}
    data = await data_of(plane, actor, document("Allocate"), {"input": given}, operation="Allocate")
    shown = data["allocate"]["allocation"]["id"]
    assert (await _carried_out(shown)).state.value == "ACTIVE"
    return str(shown)


async def _carried_out(shown: str) -> Allocation:
    parts = split_id(shown)
    assert parts is not None
    return await carry_out(await Allocation.get(id=parts[1]))


async def test_from_registering_to_gone(any_plane: ControlPlane, s3_server: S3Server) -> None:
    plane, root = any_plane, await as_admin()
    bucket = f"contract-{(await make_user()).id.hex[:12]}"
    s3_server.fill(bucket, {"imagenet/1": b"x" * 10, "imagenet/2": b"x" * 32, "other": b"x"})
    user = await make_user("ada")
    lab, host = await make_workspace(user, name="lab"), await make_host(plane, policy=MOUNTING)
    await host.grant(workspace_id=lab.id)
    source = {
        "kind": "S3",
        "location": f"s3://{bucket}/imagenet/",
        "endpoint": f"{s3_server.endpoint}/",
    }
    registered = await _run(
        plane,
        root,
        "RegisterDataset",
        name="imagenet",
        source=source,
        visibility="WORKSPACE",
        workspaceId=encode_id("Workspace", lab.id),
    )
    dataset = registered["dataset"]
    assert registered == {
        "dataset": {
            "id": dataset["id"],
            "name": "imagenet",
            "source": {"kind": "S3", "location": f"s3://{bucket}/imagenet"},
            "visibility": "WORKSPACE",
            "size": 42,
        },
        "userErrors": [],
    }
    ada = await as_user(user)
    allocation = await _allocated(plane, host, ada)
    given = {
        "datasetId": dataset["id"],
        "allocationId": allocation,
        "path": "/data/imagenet",
        "readOnly": True,
        "idempotencyKey": "key-1",
    }
    mounted = await _run(plane, ada, "MountDataset", **given)
    mount, operation = mounted["mount"], mounted["operation"]
    assert mounted == {
        "mount": {
            "id": mount["id"],
            "state": "PENDING",
            "path": "/data/imagenet",
            "readOnly": True,
            "machine": {"id": host.id},
        },
        "operation": {"id": operation["id"], "state": "PENDING"},
        "userErrors": [],
    }
    await _carried_out(allocation)
    again = await _run(plane, ada, "MountDataset", **given)
    assert again["mount"] == {**mount, "state": "MOUNTED"}
    assert again["operation"] == {"id": operation["id"], "state": "SUCCEEDED"}
    for change, (field, code) in (
        ({"idempotencyKey": "key-2"}, ("path", "CONFLICT")),
        ({"idempotencyKey": "key-2", "readOnly": False}, ("readOnly", "FORBIDDEN")),
        ({"path": "/data/../etc"}, ("path", "INVALID_INPUT")),
        ({"path": "/data/other"}, ("idempotencyKey", "IDEMPOTENCY_KEY_REUSED")),
        ({"datasetId": allocation}, ("datasetId", "NOT_FOUND")),
        ({"allocationId": dataset["id"]}, ("allocationId", "NOT_FOUND")),
    ):
        refused = await _run(plane, ada, "MountDataset", **{**given, **change})
        assert [(e["field"], e["code"]) for e in refused["userErrors"]] == [([field], code)], change
        assert (refused["mount"], refused["operation"]) == (None, None)
    assert await Mount.all().count() == 1

    unmounted = await _run(plane, ada, "UnmountDataset", id=mount["id"], idempotencyKey="key-3")
    ending = unmounted["operation"]
    assert unmounted == {
        "mount": {"id": mount["id"], "state": "UNMOUNTING"},
        "operation": {"id": ending["id"], "state": "PENDING"},
        "userErrors": [],
    }
    await _carried_out(allocation)
    gone = await _run(plane, ada, "UnmountDataset", id=mount["id"], idempotencyKey="key-3")
    assert gone["mount"] == {"id": mount["id"], "state": "UNMOUNTED"}
    assert gone["operation"] == {"id": ending["id"], "state": "SUCCEEDED"}
    shown = await data_of(
        plane,
        ada,
        "query Q($id: ID!) { allocation(id: $id) { mounts { id state mountedAt endedAt error "
        "{ code } dataset { id name access } allocation { id } } } }",
        {"id": allocation},
    )
    (row,) = shown["allocation"]["mounts"]
    assert row.pop("mountedAt") <= row.pop("endedAt")
    assert row == {
        "id": mount["id"],
        "state": "UNMOUNTED",
        "error": None,
        "dataset": {"id": dataset["id"], "name": "imagenet", "access": "READ"},
        "allocation": {"id": allocation},
    }


LOOK = (
    'query Q($id: ID!) { datasets(filter: { text: "secret" }) { totalCount edges { node { id name '
    "ownerName source { kind location endpoint machine { name } } grants { username } } } } "
    "dataset(id: $id) { id name source { location endpoint } } node(id: $id) { id } "
    "allocations { edges { node { mounts { path error { message } dataset { name source "
    "{ location endpoint } } } } } } auditEvents { edges { node { details { value } } } } "
    "}"
)


async def test_what_others_never_see(any_plane: ControlPlane) -> None:
    """Names and places of what is not theirs, whatever they share: a machine, a workspace."""
    plane, root = any_plane, await as_admin()
    owner, reader, member = [await make_user() for _ in range(3)]
    lab = await make_workspace(reader, member)
    host = await make_host(plane, policy=MOUNTING)
    await host.grant(workspace_id=lab.id)
    source = {"kind": "S3", "location": "s3://hidden-place", "endpoint": "http://127.0.0.1:1"}
    registered = await _run(
        plane,
        root,
        "RegisterDataset",
        name="secret",
        source=source,
        ownerId=encode_id("User", owner.id),
    )
    dataset = registered["dataset"]["id"]
    hers = await as_user(owner)
    granted = await _change(
        plane,
        hers,
        "grantDataset",
        "dataset { grants { username access workspaceId } }",
        datasetId=dataset,
        username=reader.username,
    )
    assert granted["dataset"]["grants"] == [
        {"username": reader.username, "access": "READ", "workspaceId": None}
    ]
    his = await as_user(reader)
    allocation = await _allocated(plane, host, his, workspaceId=encode_id("Workspace", lab.id))
    mounted = await _run(
        plane,
        his,
        "MountDataset",
        datasetId=dataset,
        allocationId=allocation,
        path="/data/x",
    )
    assert mounted["userErrors"] == []
    # Its owner sees all of it.
    seen = await data_of(plane, hers, LOOK, {"id": dataset})
    (edge,) = seen["datasets"]["edges"]
    assert edge["node"] == {
        "id": dataset,
        "name": "secret",
        "ownerName": owner.username,
        "source": {
            "kind": "S3",
            "location": "s3://hidden-place",
            "endpoint": "http://127.0.0.1:1",
            "machine": None,
        },
        "grants": [{"username": reader.username}],
    }
    # Who may read it: that it is there, and not where.
    seen = await data_of(plane, his, LOOK, {"id": dataset})
    assert seen["datasets"]["edges"][0]["node"]["name"] == "secret"
    assert seen["datasets"]["edges"][0]["node"]["grants"] == []
    text = json.dumps(seen)
    assert "hidden-place" not in text
    assert "127.0.0.1:1" not in text
    # Who shares machine, workspace and allocation: nothing.
    seen = await data_of(plane, await as_user(member), LOOK, {"id": dataset})
    assert seen["allocations"]["edges"][0]["node"]["mounts"] == []
    text = json.dumps(seen)
    for secret in ("secret", "hidden-place", dataset, "/data/x"):
        assert secret not in text.replace('\\"secret\\"', "")
    # A mutation tells no more than a lookup.
    for name, given in (
        ("updateDataset", {"id": dataset, "name": "mine"}),
        ("removeDataset", {"id": dataset}),
        ("grantDataset", {"datasetId": dataset, "username": member.username}),
    ):
        refused = await _change(plane, await as_user(member), name, "", **given)
        assert [error["code"] for error in refused["userErrors"]] == ["NOT_FOUND"]
    reading = await _change(plane, his, "removeDataset", "removedId", id=dataset)
    assert [error["code"] for error in reading["userErrors"]] == ["FORBIDDEN"]
    # Removed while it is mounted: refused. Revoked: taken away.
    taken = await _change(plane, hers, "removeDataset", "removedId", id=dataset)
    assert [(e["field"], e["code"]) for e in taken["userErrors"]] == [(["id"], "CONFLICT")]
    await _change(
        plane, hers, "revokeDatasetGrant", "", datasetId=dataset, username=reader.username
    )
    await _carried_out(allocation)
    removed = await _change(plane, hers, "removeDataset", "removedId", id=dataset)
    assert removed == {"removedId": dataset, "userErrors": []}


async def test_sharing_and_leaving(plane: ControlPlane) -> None:
    root = await as_admin()
    chief, member = await make_user(), await make_user()
    lab = await make_workspace(chief, member)
    await set_member(root, lab.id, chief.id, WorkspaceRole.ADMIN)
    host = await make_host(plane, policy=MOUNTING)
    await host.grant(user_id=member.id)
    owner = await as_user(chief)
    registered = await _run(
        plane,
        root,
        "RegisterDataset",
        name="shared",
        source=NAS,
        ownerId=encode_id("User", chief.id),
    )
    dataset = registered["dataset"]["id"]
    update = (
        "dataset { name visibility workspace { id } size sizeReason objectCount measuredAt access }"
    )
    changed = await _change(
        plane,
        owner,
        "updateDataset",
        update,
        id=dataset,
        visibility="WORKSPACE",
        workspaceId=encode_id("Workspace", lab.id),
    )
    assert changed["dataset"] == {
        "name": "shared",
        "visibility": "WORKSPACE",
        "workspace": {"id": encode_id("Workspace", lab.id)},
        "size": None,
        "sizeReason": "Only what is in S3 is measured.",
        "objectCount": None,
        "measuredAt": None,
        "access": "WRITE",
    }
    his = await as_user(member)
    allocation = await _allocated(plane, host, his)
    await _run(
        plane, his, "MountDataset", datasetId=dataset, allocationId=allocation, path="/data/x"
    )
    await _carried_out(allocation)
    await remove_member(root, lab.id, member.id)
    assert await end_baseless() == 1
    await _carried_out(allocation)
    shown = await data_of(
        plane,
        his,
        "query Q($id: ID!) { allocation(id: $id) { mounts { state error { code } "
        "dataset { id } } } }",
        {"id": allocation},
    )
    assert shown["allocation"]["mounts"] == [
        {"state": "UNMOUNTED", "error": {"code": "ACCESS_REVOKED"}, "dataset": None}
    ]


async def test_places_and_lists(plane: ControlPlane) -> None:
    root, user = await as_admin(), await make_user()
    host = await make_host(plane, "gpu-01", policy=MOUNTING)
    for number in range(3):
        made = await _run(
            plane,
            root,
            "RegisterDataset",
            name=f"data {number}",
            source={"kind": "DIRECTORY", "location": f"/srv/{number}", "machineId": host.id},
            visibility="PUBLIC",
        )
        assert made["userErrors"] == []
    for given, field in (
        ({"source": {**NAS, "machineId": "nonsense"}}, ["source", "machineId"]),
        ({"source": {"kind": "NFS", "location": "/srv"}}, ["source", "location"]),
        ({"source": NAS, "visibility": "WORKSPACE"}, ["workspaceId"]),
        ({"source": {"kind": "S3", "location": "s3://b"}, "name": ""}, ["name"]),
    ):
        refused = await _run(plane, root, "RegisterDataset", **{"name": "x", **given})
        assert [error["field"] for error in refused["userErrors"]] == [field]
    assert await Dataset.all().count() == 3
    refused = await _run(plane, await as_user(user), "RegisterDataset", name="x", source=NAS)
    assert [(e["field"], e["code"]) for e in refused["userErrors"]] == [
        (["source", "location"], "FORBIDDEN")
    ]
    lists = (
        "query Q($after: String, $order: DatasetOrder, $filter: DatasetFilter) { "
        "datasets(first: 2, after: $after, orderBy: $order, filter: $filter) { totalCount "
        "pageInfo { endCursor hasNextPage } edges { node { name grants { access } access "
        "ownerName source { machine { name } location } } } } }"
    )
    actor = await as_user(user)
    first = (await data_of(plane, actor, lists))["datasets"]
    assert [edge["node"]["name"] for edge in first["edges"]] == ["data 0", "data 1"]
    # He sees that it is on a machine and may read it, and which machine it is that he has none of.
    assert first["edges"][0]["node"]["source"] == {"machine": None, "location": None}
    assert first["edges"][0]["node"]["access"] == "READ"
    after = {"after": first["pageInfo"]["endCursor"]}
    second = (await data_of(plane, actor, lists, after))["datasets"]
    assert [edge["node"]["name"] for edge in second["edges"]] == ["data 2"]
    nowhere = await data_of(plane, actor, lists, {"filter": {"workspaceId": "nonsense"}})
    assert nowhere["datasets"]["edges"] == []
    newest = {"order": {"field": "CREATED_AT", "direction": "DESC"}, "filter": {"mine": True}}
    assert (await data_of(plane, actor, lists, newest))["datasets"]["totalCount"] == 0
    found = (await data_of(plane, root, lists, newest))["datasets"]["edges"]
    assert [edge["node"]["name"] for edge in found] == ["data 2", "data 1"]
    assert found[0]["node"]["source"] == {"machine": {"name": "gpu-01"}, "location": "/srv/2"}
    measured = await _change(
        plane,
        root,
        "measureDataset",
        "dataset { size sizeReason }",
        id=encode_id("Dataset", (await Dataset.first()).id),  # type: ignore[union-attr]  # there are three
    )
    assert measured["dataset"]["size"] is None


MOUNTS = (
    "{ allocations(first: 100) { edges { node { mounts { state machine { name } dataset { name "
    "ownerName access workspace { name } grants { access } source { machine { name } } } "
    "allocation { id } } } } } }"
)


@pytest.mark.parametrize("who", ["admin", "tenant"])
async def test_mounts_are_looked_up_by_relation(plane: ControlPlane, who: str) -> None:
    user = await make_user()
    actor = await as_admin() if who == "admin" else await as_user(user)
    host = await make_host(plane, gpus=4, policy=MOUNTING)
    await host.grant(user_id=user.id)
    counts = []
    for round_ in range(2):
        given = {"gpuIds": host.gpu_ids[round_ * 2 : round_ * 2 + 2]}
        allocation = await _allocated(plane, host, await as_user(user), **given)
        for number in range(1 + round_ * 5):
            row = await Dataset.create(
                owner_id=user.id,
                name=f"{round_} {number}",
                name_key=f"{round_} {number}",
                kind="NFS",
                location="nas:/x",
                visibility="PUBLIC",
                created_at=1,
            )
            parts = split_id(allocation)
            assert parts is not None
            await Mount.create(
                dataset_id=row.id,
                allocation_id=parts[1],
                machine_id=host.machine.id,
                path=f"/data/{round_}/{number}",
                read_only=True,
                created_at=1,
            )
        with statements() as seen:
            data = await data_of(plane, actor, MOUNTS)
        counts.append(len(seen))
        found = [len(edge["node"]["mounts"]) for edge in data["allocations"]["edges"]]
        assert sum(found) == 1 + round_ * 6
    assert counts[0] == counts[1], counts
    assert counts[0] <= 16

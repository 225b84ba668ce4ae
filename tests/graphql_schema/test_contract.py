"""Every operation of the consumers' documents, as it stands, over real rows and real samples."""

from typing import Any

import pytest
from graphql import OperationType, parse, validate

from remotegpu_core.actor import SYSTEM, Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Enrollment, MachineGrant, User
from remotegpu_core.secret import secret_hash
from remotegpu_core.services.machines import MachineFilter
from remotegpu_core.services.presence import disconnect
from remotegpu_graphql.cost import MAX_COST
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.scalars import format_time
from tests.graphql_schema.asking import ask, data_of
from tests.graphql_schema.contract import ContractOperation, contract_operations, document
from tests.graphql_schema.hosts import GIB, ipv4_of, ipv6_of, make_host
from tests.graphql_schema.people import (
    PASSWORD,
    actor_of,
    api_token,
    as_admin,
    as_user,
    make_user,
    make_workspace,
)

OPERATIONS = contract_operations()


def _label(operation: ContractOperation) -> str:
    return operation.name


async def _run(plane: ControlPlane, actor: Actor, name: str, **variables: Any) -> Any:
    return await data_of(plane, actor, document(name), variables, operation=name)


def test_the_documents_are_all_there() -> None:
    assert {operation.name for operation in OPERATIONS} == {
        *("SignIn", "Viewer", "CreateUser", "CreateApiToken", "RevokeApiToken"),
        *("GrantMachine", "RevokeMachineGrant", "CreateEnrollment"),
        *("Machines", "Fleet", "Node"),
        *("MachineMetrics", "MachineMetricsEvery", "MachineChanges", "FleetPulse", "Audit"),
        *("Allocate", "ExtendAllocation", "ReleaseAllocation", "MyAllocations"),
        *("RegisterDataset", "MountDataset", "UnmountDataset"),
        *("AddSshKey", "RemoveSshKey", "ResetSshKeys"),
        *("Operation", "OperationChanged", "CleaningReceipt"),
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=_label)
def test_operation_is_valid_and_within_every_limit(
    engine: Engine, operation: ContractOperation
) -> None:
    assert validate(engine.schema, parse(operation.source)) == []
    # Signed out, so that nothing is let pass for who asks.
    prepared = engine.prepare(operation.source, operation.name, signed_in=False)
    assert prepared.name == operation.name
    assert engine.price(prepared, {"first": 100, "machineIds": ["x"] * 100}) <= MAX_COST


async def test_sign_in(any_plane: ControlPlane) -> None:
    user = await make_user("ada")
    nobody = Actor(kind=(await as_user()).kind.ANONYMOUS, source_address="192.0.2.9")
    data = await _run(any_plane, nobody, "SignIn", username="ADA", password=PASSWORD)
    payload = data["signIn"]
    assert payload["userErrors"] == []
    assert payload["viewer"] == {
        "user": {"id": encode_id("User", user.id), "username": "ada", "role": "USER"}
    }
    actor = await actor_of(payload["token"])
    assert actor.user_id == user.id
    assert actor.expires_at is not None
    assert payload["expiresAt"] == format_time(actor.expires_at)

    wrong = await _run(any_plane, nobody, "SignIn", username="ada", password="wrong-Passw0rd")
    assert wrong["signIn"] == {
        "token": None,
        "expiresAt": None,
        "viewer": None,
        "userErrors": [
            {
                "field": None,
                "message": "The user name or the password is wrong.",
                "code": "INVALID_CREDENTIALS",
            }
        ],
    }


async def test_viewer(plane: ControlPlane) -> None:
    user = await make_user("grace")
    data = await _run(plane, await as_user(user), "Viewer")
    assert data == {
        "viewer": {"user": {"id": encode_id("User", user.id), "username": "grace", "role": "USER"}}
    }


async def test_create_user(plane: ControlPlane) -> None:
    admin = await as_admin()
    given = {"username": "mallory", "password": "mallory-Passw0rd-1", "role": "USER"}
    data = await _run(plane, admin, "CreateUser", input=given)
    user = await User.get(username="mallory")
    assert data["createUser"] == {
        "user": {"id": encode_id("User", user.id), "username": "mallory", "role": "USER"},
        "userErrors": [],
    }
    nobody = Actor(admin.kind.ANONYMOUS)
    signed_in = await _run(
        plane, nobody, "SignIn", username="mallory", password="mallory-Passw0rd-1"
    )
    assert signed_in["signIn"]["token"].startswith("rgs_")

    again = await _run(plane, admin, "CreateUser", input={**given, "username": "Mallory"})
    assert again["createUser"]["user"] is None
    assert [(e["field"], e["code"]) for e in again["createUser"]["userErrors"]] == [
        (["username"], "CONFLICT")
    ]


async def test_create_and_revoke_api_token(plane: ControlPlane) -> None:
    actor = await as_user()
    expires_at = format_time(now_ms() + 3_600_000)
    given = {"name": "grafana", "scopes": ["READ"], "expiresAt": expires_at}
    created = (await _run(plane, actor, "CreateApiToken", input=given))["createApiToken"]
    assert created["userErrors"] == []
    token = created["apiToken"]
    assert token.pop("createdAt") <= format_time(now_ms())
    assert token == {
        "id": token["id"],
        "name": "grafana",
        "scopes": ["READ"],
        "expiresAt": expires_at,
        "lastUsedAt": None,
    }
    bearer = await actor_of(created["token"])
    assert bearer.user_id == actor.user_id
    assert bearer.scopes == {Scope.READ}

    revoked = (await _run(plane, actor, "RevokeApiToken", id=token["id"]))["revokeApiToken"]
    assert revoked["userErrors"] == []
    assert revoked["apiToken"]["id"] == token["id"]
    assert revoked["apiToken"]["revokedAt"] is not None


async def test_create_api_token_without_an_end(plane: ControlPlane) -> None:
    given = {"name": "ci", "scopes": ["READ", "WRITE"]}
    created = await _run(plane, await as_user(), "CreateApiToken", input=given)
    assert created["createApiToken"]["apiToken"]["expiresAt"] is None


async def test_grant_and_revoke(plane: ControlPlane) -> None:
    admin, host, user = await as_admin(), await make_host(plane), await make_user()
    workspace = await make_workspace()
    shown = {"id": host.id, "name": host.machine.name}
    for given in (
        {"userId": encode_id("User", user.id)},
        {"workspaceId": encode_id("Workspace", workspace.id)},
    ):
        granted = await _run(plane, admin, "GrantMachine", machineId=host.id, **given)
        assert granted["grantMachine"] == {"machine": shown, "userErrors": []}
        assert await MachineGrant.filter(machine_id=host.machine.id).count() == 1
        revoked = await _run(plane, admin, "RevokeMachineGrant", machineId=host.id, **given)
        assert revoked["revokeMachineGrant"] == {"machine": shown, "userErrors": []}
        assert not await MachineGrant.exists()


async def test_create_enrollment(plane: ControlPlane) -> None:
    given = {"machineName": "gpu-01", "labels": [{"key": "rack", "value": "a1"}]}
    data = await _run(plane, await as_admin(), "CreateEnrollment", input=given)
    payload = data["createEnrollment"]
    assert payload["userErrors"] == []
    row = await Enrollment.get(token_hash=secret_hash(payload["token"]))
    assert row.labels == [["rack", "a1"]]
    assert payload["enrollment"] == {
        "id": encode_id("Enrollment", row.id),
        "machineName": "gpu-01",
        "expiresAt": format_time(row.expires_at),
    }
    assert payload["command"] == (
        f"remotegpu-agent enroll --server {plane.settings.origin} --token {payload['token']}"
    )


async def test_machines(any_plane: ControlPlane) -> None:
    plane, admin = any_plane, await as_admin()
    host = await make_host(plane, "gpu-01", gpus=2, labels=[("rack", "a1")])
    await make_host(plane, "gpu-02")
    sample = await host.publish()
    filter_ = {"labels": [{"key": "rack", "value": "a1"}], "presence": ["ONLINE"]}
    machines = (await _run(plane, admin, "Machines", first=100, filter=filter_))["machines"]
    assert machines["totalCount"] == 1
    (edge,) = machines["edges"]
    assert machines["pageInfo"] == {"hasNextPage": False, "endCursor": edge["cursor"]}
    node = edge["node"]
    gpus, metrics = node.pop("gpus"), node.pop("latestMetrics")
    assert node == {
        "id": host.id,
        "name": "gpu-01",
        "presence": "ONLINE",
        "lifecycle": "IN_SERVICE",
        "availability": "AVAILABLE",
        "health": "HEALTHY",
        "lastSeenAt": format_time(host.machine.last_seen_at or 0),
        "agentVersion": "1.2.3",
        "addresses": [
            {"address": ipv4_of("gpu-01"), "kind": "MANAGEMENT"},
            {"address": ipv6_of("gpu-01"), "kind": "PUBLIC"},
        ],
        "labels": [{"key": "rack", "value": "a1"}],
        "specs": {
            "cpuModel": "AMD EPYC 9654",
            "cpuCount": 192,
            "memoryTotal": 1536 * GIB,
            "diskTotal": 8 * 2**40,
            "operatingSystem": "Debian GNU/Linux 12",
            "kernel": "6.1.0-18-amd64",
            "driverVersion": "550.54.15",
            "cudaVersion": "12.4",
        },
    }
    assert gpus == [
        {
            "id": host.gpu_ids[index],
            "index": index,
            "uuid": f"GPU-gpu-01-{index}",
            "model": "NVIDIA H100 80GB HBM3",
            "memoryTotal": 80 * GIB,
            "health": "HEALTHY",
            "availability": "AVAILABLE",
        }
        for index in range(2)
    ]
    assert metrics == {
        "sampledAt": format_time(sample.sampled_at),
        "host": {
            "cpuUtilization": 12.5,
            "memoryUsed": 100 * GIB,
            "memoryTotal": 1536 * GIB,
            "load1": 1.5,
            "networkReceiveBytesPerSecond": 1000.5,
            "networkTransmitBytesPerSecond": 500.25,
            "diskUsed": 2**40,
            "diskTotal": 8 * 2**40,
        },
        "gpus": [
            {
                "index": index,
                "uuid": f"GPU-gpu-01-{index}",
                "utilization": 50.0 + index,
                "memoryControllerUtilization": 25.0,
                "memoryUsed": 40 * GIB,
                "memoryTotal": 80 * GIB,
                "temperature": 61.0,
                "power": 350.5,
                "powerLimit": 700.0,
                "smClock": 1980,
                "memoryClock": 2619,
                "fanSpeed": 30.0,
                "eccErrors": {"corrected": 2, "uncorrected": 0},
                "processes": [
                    {"pid": 4242, "name": "python", "username": "ada", "memoryUsed": 39 * GIB}
                ],
            }
            for index in range(2)
        ],
    }


async def test_machines_by_every_filter_that_the_document_names(plane: ControlPlane) -> None:
    await make_host(plane, "gpu-01", labels=[("rack", "a1")])
    every = {
        "presence": ["ONLINE"],
        "lifecycle": ["IN_SERVICE"],
        "availability": ["AVAILABLE"],
        "health": ["HEALTHY"],
        "gpuModel": "h100",
        "freeGpus": {"model": "h100", "atLeast": 1},
        "labels": [{"key": "rack", "value": "a1"}],
        "text": "GPU",
        "mine": False,
    }
    assert len(every) == len(MachineFilter.__dataclass_fields__)
    data = await _run(plane, await as_admin(), "Machines", filter=every)
    assert data["machines"]["totalCount"] == 1


async def test_fleet(plane: ControlPlane) -> None:
    host = await make_host(plane, gpus=2)
    quiet = await make_host(plane, gpus=1)
    assert await disconnect(quiet.machine.id, quiet.epoch, last_seen_at=now_ms())
    await host.publish()
    data = await _run(plane, await as_admin(), "Fleet")
    assert data["fleet"] == {
        "machines": {
            "total": 2,
            "online": 1,
            "unreachable": 1,
            "lost": 0,
            "available": 1,
            "allocated": 0,
            "quarantined": 0,
        },
        "gpus": {
            "total": 3,
            "available": 2,
            "allocated": 0,
            "unhealthy": 0,
            "utilization": 50.5,
            "memoryUsed": 80 * GIB,
            "memoryTotal": 160 * GIB,
            "power": 701.0,
        },
    }


async def test_node(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await make_host(plane)
    assert (await _run(plane, admin, "Node", id=host.id))["node"] == {
        "__typename": "Machine",
        "id": host.id,
        "name": host.machine.name,
    }
    assert (await _run(plane, admin, "Node", id=host.gpu_ids[1]))["node"] == {
        "__typename": "Gpu",
        "id": host.gpu_ids[1],
        "uuid": host.gpus[1].uuid,
        "model": host.gpus[1].model,
    }


async def test_audit(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user("ada")
    actor = await as_user(user)
    secret, row = await api_token(user, Scope.WRITE, name="ci")
    program = await actor_of(secret)
    host = await make_host(plane, "gpu-01")
    await data_of(
        plane,
        actor,
        document("CreateApiToken"),
        {"input": {"name": "mine", "scopes": ["READ"]}},
        operation="CreateApiToken",
    )
    await ask(
        plane,
        program,
        document("GrantMachine"),
        {"machineId": host.id, "userId": encode_id("User", user.id)},
        operation="GrantMachine",
    )
    events = (await _run(plane, await as_admin(), "Audit"))["auditEvents"]
    assert events["pageInfo"] == {
        "hasNextPage": False,
        "endCursor": events["edges"][-1]["cursor"],
    }
    found = {edge["node"]["action"]: edge["node"] for edge in events["edges"]}
    user_id = encode_id("User", user.id)
    assert found["createApiToken"]["actor"] == {
        "__typename": "User",
        "id": user_id,
        "username": "ada",
    }
    assert found["createApiToken"]["sourceAddress"] == "192.0.2.1"
    assert found["createApiToken"]["details"] == [
        {"key": "name", "value": "mine"},
        {"key": "scopes", "value": "READ"},
    ]
    assert found["grantMachine"]["outcome"] == "DENIED"
    assert found["grantMachine"]["actor"] == {
        "__typename": "ApiToken",
        "id": encode_id("ApiToken", row.id),
        "name": "ci",
        "user": {"id": user_id, "username": "ada"},
    }
    assert found["redeemEnrollment"]["actor"] == {
        "__typename": "Machine",
        "id": host.id,
        "name": "gpu-01",
    }
    assert found["redeemEnrollment"]["targetId"] == host.id
    assert found["createEnrollment"]["actor"] is None
    assert SYSTEM.id is None

    filtered = await _run(
        plane,
        await as_admin(),
        "Audit",
        filter={
            "actorId": user_id,
            "action": "grantMachine",
            "outcome": "DENIED",
            "since": "2020-01-01T00:00:00Z",
            "until": "9999-01-01T00:00:00+01:00",
        },
    )
    assert [edge["node"] for edge in filtered["auditEvents"]["edges"]] == [found["grantMachine"]]


def test_what_runs_is_what_subscribes() -> None:
    kinds = {operation.name: operation.kind for operation in OPERATIONS}
    assert {name for name, kind in kinds.items() if kind is OperationType.SUBSCRIPTION} == {
        *("MachineMetrics", "MachineMetricsEvery", "MachineChanges", "FleetPulse"),
        "OperationChanged",
    }

"""The consumers' documents on allocations and operations, as they stand."""

from typing import Any

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Allocation, Command
from remotegpu_core.services.grants import revoke_machine_grant
from remotegpu_core.services.workspaces import remove_member
from remotegpu_core.states import CommandState
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.ids import encode_id, split_id
from remotegpu_graphql.scalars import format_time
from tests.core.services.allocations.hosts import CLEAN_SURFACES, POLICY, answer, carry_out, waiting
from tests.graphql_schema.asking import ask, data_of, following
from tests.graphql_schema.contract import document
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user, make_workspace


async def _run(plane: ControlPlane, actor: Actor, name: str, **variables: Any) -> Any:
    return await data_of(plane, actor, document(name), variables, operation=name)


async def _row(shown: dict[str, Any]) -> Allocation:
    parts = split_id(shown["id"])
    assert parts is not None
    return await Allocation.get(id=parts[1])


async def _host(plane: ControlPlane, name: str, *, gpus: int = 2) -> Host:
    return await make_host(plane, name, gpus=gpus, policy=POLICY)


def _in(hours: float) -> str:
    return format_time(now_ms() + int(hours * HOUR))


async def test_from_asking_to_the_receipt(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user("ada")
    host, ada = await _host(plane, "gpu-01"), await as_user(user)
    await host.grant(user_id=user.id)
    lab = await make_workspace(user, name="lab")
    given = {
        "requirement": {
            "gpuCount": 2,
            "gpuModel": "h100",
            "gpuMemoryAtLeast": 40_000_000_000,
            "labels": [],
        },
        "workspaceId": encode_id("Workspace", lab.id),
        "endsAt": _in(1),
        "idempotencyKey": "key-1",
    }
    payload = (await _run(plane, ada, "Allocate", input=given))["allocate"]
    allocation, operation = payload["allocation"], payload["operation"]
    assert payload == {
        "allocation": {
            "id": allocation["id"],
            "state": "PENDING",
            "startsAt": allocation["startsAt"],
            "endsAt": given["endsAt"],
            "machine": {"id": host.id, "name": "gpu-01"},
            "gpus": [{"id": host.gpu_ids[0], "index": 0}, {"id": host.gpu_ids[1], "index": 1}],
            "user": {"username": "ada"},
            "workspace": {"id": encode_id("Workspace", lab.id), "name": "lab"},
        },
        "operation": {"id": operation["id"], "state": "RUNNING"},
        "userErrors": [],
    }
    mine = (await _run(plane, ada, "MyAllocations"))["viewer"]
    assert mine["quota"] == {
        "gpus": {"used": 2, "limit": 8},
        "allocations": {"used": 1, "limit": 4},
    }
    assert mine["allocations"]["totalCount"] == 1
    node = mine["allocations"]["edges"][0]["node"]
    assert (node["id"], node["ssh"]) == (allocation["id"], None)
    assert [reason["code"] for reason in node["pendingReasons"]] == ["STARTING"]

    await carry_out(await _row(allocation))
    shown = (await _run(plane, ada, "Operation", id=operation["id"]))["operation"]
    assert (shown["kind"], shown["state"], shown["progress"]) == ("allocate", "SUCCEEDED", 1.0)
    assert shown["error"] is None
    assert [(step["name"], step["state"]) for step in shown["steps"]] == [
        ("reserve", "SUCCEEDED"),
        ("start", "SUCCEEDED"),
    ]
    again = (await _run(plane, ada, "Allocate", input=given))["allocate"]
    assert again["allocation"] == {**allocation, "state": "ACTIVE"}
    assert again["operation"] == {"id": operation["id"], "state": "SUCCEEDED"}
    other = {**given, "endsAt": _in(2)}
    reused = (await _run(plane, ada, "Allocate", input=other))["allocate"]
    assert [(e["field"], e["code"]) for e in reused["userErrors"]] == [
        (["idempotencyKey"], "IDEMPOTENCY_KEY_REUSED")
    ]

    later = _in(3)
    extended = await _run(plane, ada, "ExtendAllocation", id=allocation["id"], endsAt=later)
    assert extended["extendAllocation"] == {
        "allocation": {"id": allocation["id"], "endsAt": later},
        "userErrors": [],
    }
    released = await _run(plane, ada, "ReleaseAllocation", id=allocation["id"], key="key-2")
    cleaning = released["releaseAllocation"]["operation"]
    assert released["releaseAllocation"] == {
        "allocation": {"id": allocation["id"], "state": "RECLAIMING"},
        "operation": {"id": cleaning["id"], "state": "PENDING"},
        "userErrors": [],
    }
    receipts = {"allocationId": allocation["id"]}
    assert (await _run(plane, ada, "CleaningReceipt", **receipts))["node"] == {
        "cleaningReceipt": None
    }
    await carry_out(await _row(allocation))
    receipt = (await _run(plane, ada, "CleaningReceipt", **receipts))["node"]["cleaningReceipt"]
    assert receipt == {
        "id": receipt["id"],
        "finishedAt": receipt["finishedAt"],
        "verified": True,
        "items": [
            {
                "surface": item.surface,
                "action": item.action,
                "found": item.found,
                "removed": item.removed,
                "verified": True,
                "detail": item.detail,
            }
            for item in CLEAN_SURFACES
        ],
    }


async def test_refusals(plane: ControlPlane) -> None:
    user, admin = await make_user(), await as_admin()
    host, ada = await _host(plane, "gpu-01", gpus=1), await as_user(user)
    await host.grant(user_id=user.id)
    given = {"machineId": host.id, "gpuIds": host.gpu_ids, "endsAt": _in(1), "wait": False}
    held = (await _run(plane, admin, "Allocate", input=given))["allocate"]
    for change, expected in (
        ({}, (["gpuIds"], "NO_CAPACITY")),
        ({"gpuIds": None}, (["machineId"], "NO_CAPACITY")),
        ({"endsAt": _in(-1)}, (["endsAt"], "INVALID_INPUT")),
        ({"requirement": {"gpuCount": 1}}, (["machineId"], "INVALID_INPUT")),
        ({"userId": encode_id("User", (await make_user()).id)}, (["userId"], "NOT_FOUND")),
    ):
        refused = (await _run(plane, ada, "Allocate", input={**given, **change}))["allocate"]
        assert [(e["field"], e["code"]) for e in refused["userErrors"]] == [expected], change
        assert (refused["allocation"], refused["operation"]) == (None, None)
    reserved = await _run(
        plane, ada, "Allocate", input={**given, "startsAt": _in(2), "endsAt": _in(3)}
    )
    assert reserved["allocate"]["userErrors"] == []
    beyond = await _run(
        plane, admin, "ExtendAllocation", id=held["allocation"]["id"], endsAt=_in(2.5)
    )
    assert [(e["field"], e["code"]) for e in beyond["extendAllocation"]["userErrors"]] == [
        (["endsAt"], "NO_CAPACITY")
    ]
    large = {"requirement": {"gpuCount": 9}, "endsAt": _in(1), "wait": True}
    refused = (await _run(plane, ada, "Allocate", input=large))["allocate"]
    assert [error["code"] for error in refused["userErrors"]] == ["QUOTA_EXCEEDED"]


async def test_an_operation_is_followed_to_its_end(any_plane: ControlPlane) -> None:
    plane, admin = any_plane, await as_admin()
    host = await _host(plane, "gpu-01")
    given = {"machineId": host.id, "endsAt": _in(1)}
    made = (await _run(plane, admin, "Allocate", input=given))["allocate"]
    source, variables = document("OperationChanged"), {"id": made["operation"]["id"]}
    async with following(plane, admin, source, variables, operation="OperationChanged") as live:
        first = (await live.data())["operationChanged"]
        assert (first["state"], first["error"]) == ("RUNNING", None)
        (start,) = await waiting(await _row(made["allocation"]))
        await answer(start, CommandState.REFUSED)
        await plane.bus.nudge("test")
        last = first
        while last["state"] == "RUNNING":
            last = (await live.data())["operationChanged"]
        assert last["state"] == "FAILED"
        assert last["error"] == {"code": "TRIED", "message": "it did not work"}
        with pytest.raises(StopAsyncIteration):
            await live.next()
    # Of one that is over there is the end, and no more.
    async with following(plane, admin, source, variables, operation="OperationChanged") as live:
        assert (await live.data())["operationChanged"] == last
        with pytest.raises(StopAsyncIteration):
            await live.next()


async def test_whoever_loses_sight_of_an_operation_is_told(plane: ControlPlane) -> None:
    user, member = await make_user(), await make_user()
    host = await _host(plane, "gpu-01")
    await host.grant(user_id=user.id)
    lab = await make_workspace(user, member)
    given = {
        "machineId": host.id,
        "endsAt": _in(1),
        "workspaceId": encode_id("Workspace", lab.id),
    }
    made = (await _run(plane, await as_user(user), "Allocate", input=given))["allocate"]
    source, variables = document("OperationChanged"), {"id": made["operation"]["id"]}
    async with following(
        plane, await as_user(member), source, variables, operation="OperationChanged"
    ) as live:
        await live.next()
        await remove_member(SYSTEM, lab.id, member.id)
        with pytest.raises(RequestRefused) as refused:
            await live.next()
        (error,) = refused.value.errors
        assert error.extensions == {"code": "NOT_FOUND", "field": ["operationId"]}


CHANGES = (
    "subscription S($after: String) { allocationChanged(after: $after) "
    "{ cursor kind allocationId allocation { id state endsAt } } }"
)


async def test_allocations_as_they_change(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user()
    host, ada = await _host(plane, "gpu-01"), await as_user(user)
    await host.grant(user_id=user.id)
    async with following(plane, ada, CHANGES) as live:
        ready = (await live.data())["allocationChanged"]
        assert (ready["kind"], ready["allocationId"], ready["allocation"]) == ("READY", None, None)
        # Somebody else's is not told.
        foreign = await _host(plane, "gpu-02")
        await _run(
            plane, await as_admin(), "Allocate", input={"machineId": foreign.id, "endsAt": _in(1)}
        )
        made = await _run(plane, ada, "Allocate", input={"machineId": host.id, "endsAt": _in(1)})
        await carry_out(await _row(made["allocate"]["allocation"]))
        await plane.bus.nudge("test")
        seen = [(await live.data())["allocationChanged"] for _ in range(3)]
        assert [event["kind"] for event in seen] == ["CREATED", "PLACED", "STARTED"]
        assert {event["allocationId"] for event in seen} == {made["allocate"]["allocation"]["id"]}
        assert seen[-1]["allocation"]["state"] == "ACTIVE"
    async with following(plane, ada, CHANGES, {"after": seen[0]["cursor"]}) as again:
        assert (await again.data())["allocationChanged"]["kind"] == "PLACED"
    async with following(plane, ada, CHANGES, {"after": "99999"}) as wrong:
        with pytest.raises(RequestRefused):
            await wrong.next()


async def test_what_is_held_is_told_of_machines_and_the_fleet(any_plane: ControlPlane) -> None:
    plane, admin = any_plane, await as_admin()
    host, free = await _host(plane, "gpu-01"), await _host(plane, "gpu-02")
    query = (
        "query Q($filter: MachineFilter) { machines(filter: $filter) { edges { node { name "
        "availability gpus { availability } } } } "
        "fleet { machines { available allocated } gpus { available allocated } } }"
    )

    async def look(*wanted: str) -> tuple[dict[str, Any], dict[str, Any]]:
        filter_ = {"availability": list(wanted)} if wanted else None
        data = await data_of(plane, admin, query, {"filter": filter_})
        shown = {
            edge["node"]["name"]: (
                edge["node"]["availability"],
                [gpu["availability"] for gpu in edge["node"]["gpus"]],
            )
            for edge in data["machines"]["edges"]
        }
        return shown, data["fleet"]

    given = {"machineId": host.id, "gpuIds": host.gpu_ids[:1], "endsAt": _in(1)}
    one = (await _run(plane, admin, "Allocate", input=given))["allocate"]["allocation"]
    shown, fleet = await look()
    assert shown == {
        "gpu-01": ("PARTLY_ALLOCATED", ["ALLOCATED", "AVAILABLE"]),
        "gpu-02": ("AVAILABLE", ["AVAILABLE", "AVAILABLE"]),
    }
    assert fleet == {
        "machines": {"available": 1, "allocated": 1},
        "gpus": {"available": 3, "allocated": 1},
    }
    given["gpuIds"] = host.gpu_ids[1:]
    other = (await _run(plane, admin, "Allocate", input=given))["allocate"]["allocation"]
    assert (await look("ALLOCATED"))[0] == {"gpu-01": ("ALLOCATED", ["ALLOCATED"] * 2)}
    assert set((await look("AVAILABLE"))[0]) == {"gpu-02"}
    for allocation in (one, other):
        await carry_out(await _row(allocation))
        await _run(plane, admin, "ReleaseAllocation", id=allocation["id"], key=allocation["id"])
    assert (await look("RECLAIMING"))[0] == {"gpu-01": ("RECLAIMING", ["RECLAIMING"] * 2)}
    assert set((await look("RECLAIMING", "AVAILABLE"))[0]) == {"gpu-01", "gpu-02"}
    for allocation in (one, other):
        await carry_out(await _row(allocation))
    assert set((await look("AVAILABLE"))[0]) == {"gpu-01", "gpu-02"}
    assert free.machine.name == "gpu-02"


PLAN = (
    "query Q($input: AllocateInput!) { planAllocation(input: $input) { possible startsAt endsAt "
    "machine { name } gpus { index } reasons { code message } } }"
)


async def test_a_plan_changes_nothing(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await _host(plane, "gpu-01")
    given = {"requirement": {"gpuCount": 1}, "endsAt": _in(1)}
    planned = (await data_of(plane, admin, PLAN, {"input": given}))["planAllocation"]
    assert planned.pop("startsAt") <= format_time(now_ms())
    assert planned == {
        "possible": True,
        "endsAt": given["endsAt"],
        "machine": {"name": "gpu-01"},
        "gpus": [{"index": 0}],
        "reasons": [],
    }
    assert await Allocation.all().count() == 0
    held = await _run(plane, admin, "Allocate", input={"machineId": host.id, "endsAt": _in(0.5)})
    planned = (await data_of(plane, admin, PLAN, {"input": given}))["planAllocation"]
    assert (planned["possible"], planned["machine"]) == (False, None)
    assert planned["startsAt"] == held["allocate"]["allocation"]["endsAt"]
    assert [reason["code"] for reason in planned["reasons"]] == ["NO_CAPACITY"]
    body = await ask(plane, admin, PLAN, {"input": {**given, "endsAt": _in(-1)}})
    assert body["errors"][0]["extensions"] == {"code": "INVALID_INPUT", "field": ["endsAt"]}


async def test_operations_are_called_off_and_quarantines_overridden(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await _host(plane, "gpu-01")
    given = {"machineId": host.id, "endsAt": _in(1)}
    cancel = (
        'mutation M($id: ID!) { cancelOperation(input: { id: $id, idempotencyKey: "k" }) '
        "{ operation { state allocation { state } machine { name } } userErrors { code } } }"
    )
    made = (await _run(plane, admin, "Allocate", input=given))["allocate"]
    for _ in range(2):
        data = await data_of(plane, admin, cancel, {"id": made["operation"]["id"]})
        assert data["cancelOperation"] == {
            "operation": {
                "state": "CANCELLED",
                "allocation": {"state": "RELEASED"},
                "machine": {"name": "gpu-01"},
            },
            "userErrors": [],
        }
    made = (await _run(plane, admin, "Allocate", input=given))["allocate"]
    row = await carry_out(await _row(made["allocation"]))
    await _run(plane, admin, "ReleaseAllocation", id=made["allocation"]["id"], key="r")
    (end,) = await Command.filter(allocation_id=row.id, kind="allocation.end")
    await answer(end, CommandState.FAILED)
    causes = (
        "query Q($id: ID!) { machine(id: $id) { lifecycle quarantineCauses { code message nextStep "
        "since gpu { id } allocation { id } } } }"
    )
    machine = (await data_of(plane, admin, causes, {"id": host.id}))["machine"]
    (cause,) = machine["quarantineCauses"]
    assert (machine["lifecycle"], cause["code"]) == ("QUARANTINED", "CLEANING_FAILED")
    assert (cause["allocation"], cause["gpu"]) == ({"id": made["allocation"]["id"]}, None)
    assert "FAILED" in cause["message"]
    assert "retryReclaim" in cause["nextStep"]
    override = (
        'mutation M($id: ID!) { overrideQuarantine(input: { machineId: $id, reason: "wiped" }) '
        "{ machine { lifecycle quarantineCauses { code } } userErrors { code } } }"
    )
    data = await data_of(plane, admin, override, {"id": host.id})
    assert data["overrideQuarantine"] == {
        "machine": {"lifecycle": "IN_SERVICE", "quarantineCauses": []},
        "userErrors": [],
    }
    receipt = await data_of(
        plane,
        admin,
        "query Q($id: ID!) { allocation(id: $id) { state cleaningReceipt { verified simulated "
        "reason overriddenBy { id } items { surface } } } }",
        {"id": made["allocation"]["id"]},
    )
    assert admin.user_id
    assert receipt["allocation"] == {
        "state": "RELEASED",
        "cleaningReceipt": {
            "verified": False,
            "simulated": False,
            "reason": "wiped",
            "overriddenBy": {"id": encode_id("User", admin.user_id)},
            "items": [],
        },
    }
    # A receipt is an object of its own, for whoever sees its allocation.
    asked = "query Q($id: ID!) { allocation(id: $id) { cleaningReceipt { id } } }"
    found = await data_of(plane, admin, asked, {"id": made["allocation"]["id"]})
    receipt_id = found["allocation"]["cleaningReceipt"]["id"]
    node = "query Q($id: ID!) { node(id: $id) { id ... on AllocationReceipt { reason } } }"
    shown = {"node": {"id": receipt_id, "reason": "wiped"}}
    assert await data_of(plane, admin, node, {"id": receipt_id}) == shown
    assert await data_of(plane, await as_user(), node, {"id": receipt_id}) == {"node": None}


async def test_lists_and_quotas(plane: ControlPlane) -> None:
    admin, user = await as_admin(), await make_user("ada")
    host = await _host(plane, "gpu-01", gpus=4)
    lab = await make_workspace(user, name="lab")
    ada, mine = await as_user(user), []
    await host.grant(user_id=user.id)
    for index in range(3):
        given = {
            "machineId": host.id,
            "gpuIds": [host.gpu_ids[index]],
            "endsAt": _in(index + 1),
            "workspaceId": encode_id("Workspace", lab.id) if index else None,
        }
        mine.append((await _run(plane, ada, "Allocate", input=given))["allocate"]["allocation"])
    query = (
        "query Q($filter: AllocationFilter, $orderBy: AllocationOrder) { allocations("
        "filter: $filter, orderBy: $orderBy) { totalCount edges { node { id username } } } }"
    )

    async def ids(filter_: dict[str, Any] | None, order: dict[str, Any] | None = None) -> list[str]:
        data = await data_of(plane, admin, query, {"filter": filter_, "orderBy": order})
        edges = data["allocations"]["edges"]
        assert {edge["node"]["username"] for edge in edges} <= {"ada"}
        return [edge["node"]["id"] for edge in edges]

    expected = [allocation["id"] for allocation in mine]
    assert await ids(None) == expected[::-1]
    assert await ids(None, {"field": "ENDS_AT", "direction": "ASC"}) == expected
    assert await ids({"workspaceId": encode_id("Workspace", lab.id)}) == expected[:0:-1]
    assert await ids({"userId": encode_id("User", user.id), "machineId": host.id}) == expected[::-1]
    assert await ids({"mine": True}) == []
    assert await ids({"state": ["RELEASED", "FAILED"]}) == []
    set_quota = (
        "mutation M($input: SetQuotaInput!) { setQuota(input: $input) { quota { "
        "gpus { used limit } allocations { used limit } gpuHours { used limit } } "
        "userErrors { code } } }"
    )
    for subject, used in (
        ({"userId": encode_id("User", user.id)}, 3),
        ({"workspaceId": encode_id("Workspace", lab.id)}, 2),
    ):
        data = await data_of(
            plane, admin, set_quota, {"input": {**subject, "gpus": 5, "gpuHours": 40}}
        )
        quota = data["setQuota"]["quota"]
        assert quota["gpus"] == {"used": used, "limit": 5}
        assert quota["gpuHours"]["limit"] == 40
    data = await data_of(
        plane, ada, "{ workspaces { edges { node { quota { gpus { used limit } } } } } }"
    )
    assert data["workspaces"]["edges"][0]["node"]["quota"]["gpus"] == {"used": 2, "limit": 5}
    # Its user still sees the machine when the grant is gone: something of it is theirs.
    await revoke_machine_grant(SYSTEM, host.machine.id, user_id=user.id, workspace_id=None)
    data = await data_of(
        plane, ada, "query Q($id: ID!) { machine(id: $id) { name } }", {"id": host.id}
    )
    assert data["machine"] == {"name": "gpu-01"}

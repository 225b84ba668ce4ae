"""Filters, order and pages of `machines`, and a machine from its enrolment on."""

from typing import Any

import pytest
from msgspec import structs

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Machine, User
from remotegpu_core.services.presence import disconnect
from remotegpu_core.states import Health, Lifecycle
from remotegpu_graphql.scalars import format_time
from remotegpu_protocol.inventory import (
    GpuIsolation,
    HostInventory,
    HostKey,
    Inventory,
    IsolationKind,
    SshServer,
)
from tests.core.services.allocations.hosts import POLICY
from tests.graphql_schema.asking import ask, codes, data_of
from tests.graphql_schema.hosts import Host, enrolled_host, inventory, make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user, make_workspace

LIST = (
    "query Q($filter: MachineFilter, $order: MachineOrder) { "
    "machines(first: 100, filter: $filter, orderBy: $order) "
    "{ totalCount edges { node { name } } } }"
)


async def _names(
    plane: ControlPlane, actor: Actor, filter_: dict[str, Any] | None, **order: str
) -> list[str]:
    data = await data_of(plane, actor, LIST, {"filter": filter_, "order": order or None})
    names = [edge["node"]["name"] for edge in data["machines"]["edges"]]
    assert data["machines"]["totalCount"] == len(names)
    return names


async def _fleet(plane: ControlPlane) -> dict[str, Host]:
    """Five machines, each unlike the others."""
    hosts = {
        "alpha": await make_host(plane, "alpha", labels=[("rack", "a1"), ("tier", "gold")]),
        "Bravo": await make_host(
            plane, "Bravo", model="NVIDIA A100-SXM4-40GB", labels=[("rack", "a1")]
        ),
        "charlie_1": await make_host(plane, "charlie_1", model="Tesla_T4", gpus=1),
        "charlie-1": await make_host(plane, "charlie-1", gpus=0),
        "delta": await enrolled_host(plane, "delta", labels=[("rack", "b2")]),
    }
    bravo, charlie = hosts["Bravo"], hosts["charlie_1"]
    await disconnect(bravo.machine.id, bravo.epoch, last_seen_at=now_ms())
    await Machine.filter(id=charlie.machine.id).update(
        health=Health.DEGRADED, lifecycle=Lifecycle.QUARANTINED
    )
    return hosts


EVERYTHING = ["alpha", "Bravo", "charlie-1", "charlie_1", "delta"]

FILTERS: list[tuple[dict[str, Any] | None, list[str]]] = [
    (None, EVERYTHING),
    ({}, EVERYTHING),
    ({"presence": None, "text": None, "labels": None, "mine": None}, EVERYTHING),
    ({"presence": ["ONLINE"]}, ["alpha", "charlie-1", "charlie_1"]),
    ({"presence": ["UNREACHABLE"]}, ["Bravo", "delta"]),
    ({"presence": ["LOST"]}, []),
    ({"presence": ["ONLINE", "UNREACHABLE", "LOST"]}, EVERYTHING),
    ({"presence": []}, []),
    ({"presence": "ONLINE"}, ["alpha", "charlie-1", "charlie_1"]),
    ({"lifecycle": ["QUARANTINED"]}, ["charlie_1"]),
    ({"lifecycle": ["IN_SERVICE"]}, ["alpha", "Bravo", "charlie-1", "delta"]),
    ({"lifecycle": ["MAINTENANCE", "RETIRED"]}, []),
    ({"health": ["DEGRADED"]}, ["charlie_1"]),
    ({"health": ["DEGRADED", "HEALTHY"]}, EVERYTHING),
    ({"health": ["UNHEALTHY"]}, []),
    ({"availability": ["AVAILABLE"]}, EVERYTHING),
    ({"availability": ["ALLOCATED", "PARTLY_ALLOCATED", "RECLAIMING"]}, []),
    ({"availability": ["ALLOCATED", "AVAILABLE"]}, EVERYTHING),
    ({"availability": []}, []),
    ({"gpuModel": "a100"}, ["Bravo"]),
    ({"gpuModel": "NVIDIA"}, ["alpha", "Bravo"]),
    ({"gpuModel": "T4"}, ["charlie_1"]),
    ({"gpuModel": "nothing"}, []),
    ({"labels": [{"key": "rack", "value": "a1"}]}, ["alpha", "Bravo"]),
    (
        {"labels": [{"key": "rack", "value": "a1"}, {"key": "tier", "value": "gold"}]},
        ["alpha"],
    ),
    ({"labels": [{"key": "rack", "value": "a1"}, {"key": "rack", "value": "b2"}]}, []),
    ({"labels": [{"key": "rack", "value": "A1"}]}, []),
    ({"labels": [{"key": "a1", "value": "rack"}]}, []),
    ({"labels": []}, EVERYTHING),
    ({"text": "ALPHA"}, ["alpha"]),
    ({"text": "charlie"}, ["charlie-1", "charlie_1"]),
    ({"text": "h100"}, ["alpha"]),
    ({"text": ""}, EVERYTHING),
    ({"mine": False}, EVERYTHING),
    ({"mine": True}, []),
    # What LIKE and regular expressions read as patterns is text.
    ({"text": "%"}, []),
    ({"text": "_"}, ["charlie_1"]),
    ({"text": "charlie_"}, ["charlie_1"]),
    ({"text": "alph_"}, []),
    ({"text": "a%a"}, []),
    ({"text": "\\"}, []),
    ({"text": "\\_"}, []),
    ({"text": "alpha\\"}, []),
    ({"text": "'"}, []),
    ({"text": ".*"}, []),
    ({"gpuModel": "_"}, ["charlie_1"]),
    ({"gpuModel": "Tesla%"}, []),
    ({"gpuModel": "\\"}, []),
    # Together: all must hold.
    ({"presence": ["ONLINE"], "health": ["HEALTHY"]}, ["alpha", "charlie-1"]),
    ({"text": "a", "gpuModel": "H100", "labels": [{"key": "tier", "value": "gold"}]}, ["alpha"]),
    ({"text": "bravo", "presence": ["ONLINE"]}, []),
    ({"text": "charlie", "lifecycle": ["QUARANTINED"], "presence": ["ONLINE"]}, ["charlie_1"]),
]


async def test_filters(any_plane: ControlPlane) -> None:
    admin = await as_admin()
    await _fleet(any_plane)
    for filter_, names in FILTERS:
        found = await _names(any_plane, admin, filter_)
        assert sorted(found, key=str.lower) == sorted(names, key=str.lower), filter_


async def test_filters_hold_for_what_one_sees(any_plane: ControlPlane) -> None:
    user = await make_user()
    hosts = await _fleet(any_plane)
    await hosts["Bravo"].grant(user_id=user.id)
    actor = await as_user(user)
    for filter_, names in FILTERS:
        # A tenant's own and all that they see are the same.
        expected = EVERYTHING if filter_ == {"mine": True} else names
        found = await _names(any_plane, actor, filter_)
        assert found == [name for name in expected if name == "Bravo"], filter_


async def test_mine(any_plane: ControlPlane) -> None:
    """Of an admin too: what they or a workspace of theirs have a grant on."""
    admin, hosts = await as_admin(), await _fleet(any_plane)
    other = await make_user()
    assert admin.user_id is not None
    workspace = await make_workspace(await User.get(id=admin.user_id))
    elsewhere = await make_workspace(other)
    await hosts["alpha"].grant(user_id=admin.user_id)
    await hosts["alpha"].grant(workspace_id=workspace.id)
    await hosts["delta"].grant(workspace_id=workspace.id)
    await hosts["Bravo"].grant(workspace_id=elsewhere.id)
    await hosts["charlie_1"].grant(user_id=other.id)
    assert await _names(any_plane, admin, {"mine": True}) == ["alpha", "delta"]
    assert await _names(any_plane, admin, {"mine": True, "presence": ["ONLINE"]}) == ["alpha"]
    actor = await as_user(other)
    assert await _names(any_plane, actor, {"mine": True}) == ["Bravo", "charlie_1"]


async def test_removed_gpus_match_no_more(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await make_host(plane, "alpha", gpus=2)
    await host.report(inventory("alpha", gpus=0))
    assert await _names(plane, admin, {"gpuModel": "H100"}) == []
    data = await data_of(plane, admin, "{ machines { edges { node { gpus { id } } } } }")
    assert data["machines"]["edges"][0]["node"]["gpus"] == []


async def test_order(any_plane: ControlPlane) -> None:
    admin = await as_admin()
    await _fleet(any_plane)
    by_name = await _names(any_plane, admin, None)
    # In any case: Bravo comes after alpha.
    assert by_name[:2] == ["alpha", "Bravo"]
    assert by_name[-1] == "delta"
    assert await _names(any_plane, admin, None, field="NAME") == by_name
    assert await _names(any_plane, admin, None, field="NAME", direction="DESC") == by_name[::-1]
    made = ["alpha", "Bravo", "charlie_1", "charlie-1", "delta"]
    assert await _names(any_plane, admin, None, field="CREATED_AT") == made
    assert await _names(any_plane, admin, None, field="CREATED_AT", direction="DESC") == made[::-1]


PAGE = (
    "query Q($first: Int, $after: String, $last: Int, $before: String, $order: MachineOrder) { "
    "machines(first: $first, after: $after, last: $last, before: $before, orderBy: $order) "
    "{ totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor } "
    "edges { cursor node { name } } } }"
)


@pytest.mark.parametrize("field", ["NAME", "CREATED_AT"])
async def test_pages_both_ways(any_plane: ControlPlane, field: str) -> None:
    admin = await as_admin()
    await _fleet(any_plane)
    for direction in ("ASC", "DESC"):
        order = {"field": field, "direction": direction}
        whole = await _names(any_plane, admin, None, **order)

        async def page(order: dict[str, str] = order, **arguments: Any) -> dict[str, Any]:
            data = await data_of(any_plane, admin, PAGE, {**arguments, "order": order})
            assert data["machines"]["totalCount"] == 5
            machines: dict[str, Any] = data["machines"]
            return machines

        forwards: list[str] = []
        after = None
        for expected in (2, 2, 1):
            found = await page(first=2, after=after)
            assert len(found["edges"]) == expected
            info = found["pageInfo"]
            assert info["hasNextPage"] is (expected == 2)
            assert info["hasPreviousPage"] is (after is not None)
            assert info["startCursor"] == found["edges"][0]["cursor"]
            assert info["endCursor"] == found["edges"][-1]["cursor"]
            forwards += [edge["node"]["name"] for edge in found["edges"]]
            after = info["endCursor"]
        assert forwards == whole
        backwards: list[str] = []
        before = None
        for expected in (2, 2, 1):
            found = await page(last=2, before=before)
            assert len(found["edges"]) == expected
            info = found["pageInfo"]
            assert info["hasPreviousPage"] is (expected == 2)
            assert info["hasNextPage"] is (before is not None)
            backwards = [edge["node"]["name"] for edge in found["edges"]] + backwards
            before = info["startCursor"]
        assert backwards == whole
        first = (await page(first=1))["edges"][0]["cursor"]
        last = (await page(last=1))["edges"][0]["cursor"]
        between = await page(first=10, after=first, before=last)
        assert [edge["node"]["name"] for edge in between["edges"]] == whole[1:-1]
        nothing = await page(first=0)
        assert nothing["edges"] == []
        assert nothing["pageInfo"] == {
            "hasNextPage": True,
            "hasPreviousPage": False,
            "startCursor": None,
            "endCursor": None,
        }


async def test_page_stays_right_while_machines_come_and_go(plane: ControlPlane) -> None:
    admin = await as_admin()
    hosts = {name: await make_host(plane, name, gpus=0) for name in ("b", "d", "f")}
    data = await data_of(plane, admin, PAGE, {"first": 2})
    after = data["machines"]["pageInfo"]["endCursor"]
    await make_host(plane, "a", gpus=0)
    await make_host(plane, "e", gpus=0)
    await Machine.filter(id=hosts["d"].machine.id).delete()
    data = await data_of(plane, admin, PAGE, {"first": 2, "after": after})
    assert [edge["node"]["name"] for edge in data["machines"]["edges"]] == ["e", "f"]


async def test_default_page(plane: ControlPlane) -> None:
    admin = await as_admin()
    for number in range(21):
        await enrolled_host(plane, f"node-{number:02}")
    data = await data_of(plane, admin, PAGE)
    assert len(data["machines"]["edges"]) == 20
    assert data["machines"]["pageInfo"]["hasNextPage"] is True


async def test_cursors_of_another_list(plane: ControlPlane) -> None:
    admin = await as_admin()
    await make_host(plane)
    data = await data_of(plane, admin, "{ users(first: 1) { edges { cursor } } }")
    of_users = data["users"]["edges"][0]["cursor"]
    data = await data_of(plane, admin, PAGE, {"order": {"field": "CREATED_AT"}})
    of_time = data["machines"]["edges"][0]["cursor"]
    for name in ("after", "before"):
        for cursor in (of_users, of_time, "", "nonsense", "é", "x" * 10_000, "AAAA"):
            body = await ask(plane, admin, PAGE, {name: cursor})
            (error,) = body["errors"]
            assert error["extensions"] == {"code": "INVALID_INPUT", "field": [name]}, cursor[:30]
            assert len(error["message"]) < 300
            assert body.get("data", {"machines": None}) == {"machines": None}


MACHINE = (
    "query Q($id: ID!) { machine(id: $id) { presence lifecycle health healthReasons availability "
    "agentVersion lastSeenAt inventoryAt addresses { address } labels { key value } "
    "specs { hostname driverState disks { name } } gpus { id } latestMetrics { sampledAt } } }"
)


async def test_machine_before_its_agent_connects(plane: ControlPlane) -> None:
    host = await enrolled_host(plane, labels=[("rack", "a1")])
    data = await data_of(plane, await as_admin(), MACHINE, {"id": host.id})
    assert data["machine"] == {
        "presence": "UNREACHABLE",
        "lifecycle": "IN_SERVICE",
        "health": "HEALTHY",
        "healthReasons": [],
        "availability": "AVAILABLE",
        "agentVersion": "1.2.3",
        "lastSeenAt": None,
        "inventoryAt": None,
        "addresses": [],
        "labels": [{"key": "rack", "value": "a1"}],
        "specs": None,
        "gpus": [],
        "latestMetrics": None,
    }


async def test_machine_before_its_first_inventory(plane: ControlPlane) -> None:
    host = await enrolled_host(plane)
    await host.connect()
    machine = (await data_of(plane, await as_admin(), MACHINE, {"id": host.id}))["machine"]
    assert (machine["presence"], machine["specs"], machine["inventoryAt"]) == ("ONLINE", None, None)
    assert machine["lastSeenAt"] is not None
    await host.report(inventory("x", gpus=1))
    machine = (await data_of(plane, await as_admin(), MACHINE, {"id": host.id}))["machine"]
    assert machine["specs"]["driverState"] == "READY"
    assert machine["inventoryAt"] is not None
    assert machine["gpus"] == [{"id": host.gpu_ids[0]}]


async def test_bare_inventory(plane: ControlPlane) -> None:
    """A host that can say nothing but its name."""
    host = await enrolled_host(plane)
    await host.connect()
    await host.report(Inventory(revision=1, host=HostInventory(hostname="bare"), gpus=[]))
    query = (
        "query Q($id: ID!) { machine(id: $id) { addresses { address } specs { hostname cpuModel "
        "cpuCount architecture memoryTotal diskTotal disks { name } operatingSystem kernel "
        "hardwareUuid driverState driverMessage driverVersion cudaVersion } } }"
    )
    data = await data_of(plane, await as_admin(), query, {"id": host.id})
    specs = data["machine"]["specs"]
    assert (specs.pop("hostname"), specs.pop("driverState"), specs.pop("disks")) == (
        "bare",
        "ABSENT",
        [],
    )
    assert set(specs.values()) == {None}
    assert data["machine"]["addresses"] == []


async def test_how_gpus_are_kept_apart(plane: ControlPlane) -> None:
    """Of a machine, and of an allocation that shares one."""
    host = await make_host(plane, policy=POLICY)
    machine = "query Q($id: ID!) { machine(id: $id) { gpuIsolation { kind reason } } }"
    shown = (await data_of(plane, await as_admin(), machine, {"id": host.id}))["machine"]
    assert shown["gpuIsolation"]["kind"] == "NONE"
    assert "does not say" in shown["gpuIsolation"]["reason"]
    told = inventory(host.machine.name, policy=POLICY)
    kept = GpuIsolation(IsolationKind.DEVICE_ACL)
    await host.report(structs.replace(told, host=structs.replace(told.host, gpu_isolation=kept)))
    shown = (await data_of(plane, await as_admin(), machine, {"id": host.id}))["machine"]
    assert shown["gpuIsolation"] == {"kind": "DEVICE_ACL", "reason": None}
    allocate = (
        "mutation A($input: AllocateInput!) { allocate(input: $input) "
        "{ allocation { gpuIsolation { kind reason } } } }"
    )
    ends_at = format_time(now_ms() + HOUR)
    one = {"machineId": host.id, "gpuIds": [host.gpu_ids[0]], "endsAt": ends_at}
    made = await data_of(plane, await as_admin(), allocate, {"input": one})
    assert made["allocate"]["allocation"]["gpuIsolation"] == shown["gpuIsolation"]
    other = await make_host(plane, policy=POLICY)
    whole = {"machineId": other.id, "endsAt": ends_at}
    made = await data_of(plane, await as_admin(), allocate, {"input": whole})
    assert made["allocate"]["allocation"]["gpuIsolation"] is None


async def test_gpu(plane: ControlPlane) -> None:
    host = await make_host(plane, "alpha")
    query = (
        "query Q($id: ID!) { gpu(id: $id) { id index uuid model memoryTotal health healthReason "
        "availability pciBusId serial vbiosVersion migEnabled migDevices { uuid name memoryTotal } "
        "machine { id name } } }"
    )
    data = await data_of(plane, await as_admin(), query, {"id": host.gpu_ids[0]})
    assert data["gpu"] == {
        "id": host.gpu_ids[0],
        "index": 0,
        "uuid": "GPU-alpha-0",
        "model": "NVIDIA H100 80GB HBM3",
        "memoryTotal": 80 * 2**30,
        "health": "HEALTHY",
        "healthReason": None,
        "availability": "AVAILABLE",
        "pciBusId": "00000000:01:00.0",
        "serial": "1650923000001",
        "vbiosVersion": "96.00.74.00.01",
        "migEnabled": True,
        "migDevices": [{"uuid": "MIG-1", "name": "1g.10gb", "memoryTotal": 10 * 2**30}],
        "machine": {"id": host.id, "name": "alpha"},
    }


async def test_last_seen_is_the_newer_of_what_bus_and_database_know(plane: ControlPlane) -> None:
    host, admin = await make_host(plane), await as_admin()
    later = now_ms() + 60_000
    await plane.bus.note_presence(host.machine.id, epoch=host.epoch, seen_at=later)
    await host.publish()
    data = await data_of(plane, admin, MACHINE, {"id": host.id})
    assert data["machine"]["lastSeenAt"] == format_time(later)
    await Machine.filter(id=host.machine.id).update(last_seen_at=later + 1)
    data = await data_of(plane, admin, MACHINE, {"id": host.id})
    assert data["machine"]["lastSeenAt"] == format_time(later + 1)


async def test_enum_that_is_none(plane: ControlPlane) -> None:
    body = await ask(
        plane, await as_admin(), "{ machines(filter: {presence: [SLEEPING]}) { totalCount } }"
    )
    assert codes(body) == ["GRAPHQL_VALIDATION_FAILED"]


async def test_its_ssh_server(plane: ControlPlane) -> None:
    host = await make_host(plane, policy=POLICY)
    query = (
        "query Q($id: ID!) "
        "{ machine(id: $id) { sshServer { port hostKeys { algorithm fingerprint } refusal } } }"
    )
    shown = (await data_of(plane, await as_admin(), query, {"id": host.id}))["machine"]
    assert shown["sshServer"] is None
    told = inventory(host.machine.name, policy=POLICY)
    server = SshServer(2200, [HostKey("ssh-ed25519", "SHA256:abc")], refusal="Nothing listens.")
    await host.report(structs.replace(told, host=structs.replace(told.host, ssh=server)))
    shown = (await data_of(plane, await as_admin(), query, {"id": host.id}))["machine"]
    assert shown["sshServer"] == {
        "port": 2200,
        "hostKeys": [{"algorithm": "ssh-ed25519", "fingerprint": "SHA256:abc"}],
        "refusal": "Nothing listens.",
    }

"""What a document asks of the database and of Redis does not grow with what it finds."""

from typing import Any

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_core.settings import Settings
from remotegpu_graphql.context import Context
from remotegpu_graphql.ids import encode_id
from tests.core.services.allocations.hosts import POLICY
from tests.graphql_schema.asking import data_of
from tests.graphql_schema.contract import document
from tests.graphql_schema.counting import commands, statements
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user, make_workspace
from tests.services.redis import RedisServer

SIZES = (1, 10, 50)


async def _grow(plane: ControlPlane, hosts: list[Host], size: int, user_id: Any) -> None:
    while len(hosts) < size:
        host = await make_host(plane, labels=[("rack", "a1"), ("row", "7")])
        await host.grant(user_id=user_id)
        await host.publish()
        hosts.append(host)


async def _counted(
    plane: ControlPlane, redis: RedisServer, actor: Actor, name: str, variables: dict[str, Any]
) -> tuple[int, dict[str, int], dict[str, Any]]:
    """SQL statements, Redis commands, and the data."""
    with redis.client() as client:
        before = commands(client)
        with statements() as seen:
            data = await data_of(plane, actor, document(name), variables, operation=name)
        after = commands(client)
    new = {key: calls - before.get(key, 0) for key, calls in after.items()}
    return len(seen), {key: calls for key, calls in new.items() if calls}, data


async def test_contract_documents(scaled_out: ControlPlane, redis_server: RedisServer) -> None:
    plane, user = scaled_out, await make_user()
    actors = {"admin": await as_admin(), "tenant": await as_user(user)}
    hosts: list[Host] = []
    found: dict[str, set[int]] = {}
    for size in SIZES:
        await _grow(plane, hosts, size, user.id)
        for who, actor in actors.items():
            for name, variables in (
                ("Machines", {"first": 100}),
                ("Machines", {"first": 100, "filter": {"text": "node", "gpuModel": "H100"}}),
                ("Fleet", {}),
                ("Node", {"id": hosts[-1].id}),
                ("Viewer", {}),
                ("Audit", {}),
            ):
                sql, redis, data = await _counted(plane, redis_server, actor, name, variables)
                found.setdefault(f"{name} {sorted(variables)} by {who}", set()).add(sql)
                if name == "Machines":
                    edges = data["machines"]["edges"]
                    assert len(edges) == data["machines"]["totalCount"] == size
                    assert all(len(e["node"]["latestMetrics"]["gpus"]) == 2 for e in edges)
                # Everything of every machine in one round trip, and none where nothing is live.
                assert redis == ({"mget": 1} if name in {"Machines", "Fleet"} else {}), name
    for name, counts in found.items():
        # The same for one machine and for fifty, and few; in an audit trail one for each type of
        # actor that a page has.
        assert len(counts) == 1 or name.startswith("Audit"), (name, counts)
        assert max(counts) <= 7, (name, counts)


async def test_machines_ask_the_database_this_often(
    plane: ControlPlane, embedded_settings: Settings
) -> None:
    """The page, its count, GPUs, labels and addresses, and who holds machines and GPUs, one level after the
    other: nothing that could be left out."""
    assert embedded_settings.database_url is None
    admin = await as_admin()
    for _ in range(3):
        host = await make_host(plane)
        await host.publish()
    with statements() as seen:
        await data_of(plane, admin, document("Machines"), {}, operation="Machines")
    assert len(seen) == 7, seen
    assert sum('FROM "gpu"' in statement for statement in seen) == 1
    assert sum('FROM "machine_address"' in statement for statement in seen) == 1
    assert sum('FROM "machine_label"' in statement for statement in seen) == 1


ALLOCATIONS = (
    "{ allocations(first: 100) { totalCount edges { node { id username user { id } machine { id } "
    "workspace { id quota { gpus { used } } } gpus { id availability } pendingReasons { code } "
    "cleaningReceipt { id overriddenBy { id } } ssh { port } sshUnavailableReason { code } } } } }"
)


async def test_allocations_are_looked_up_by_relation(plane: ControlPlane) -> None:
    admin, user = await as_admin(), await make_user()
    lab = await make_workspace(user)
    counts: dict[str, list[int]] = {}
    for size in (1, 6):
        for _ in range(size):
            host = await make_host(plane, policy=POLICY)
            for starts_at in (None, now_ms() + 2 * HOUR):
                request = AllocateRequest(
                    machine_id=host.machine.id,
                    user_id=user.id,
                    workspace_id=lab.id,
                    starts_at=starts_at,
                    ends_at=(starts_at or now_ms()) + HOUR,
                )
                await allocate(SYSTEM, plane.settings, request)
            request = AllocateRequest(
                requirement=Requirement(9), ends_at=now_ms() + HOUR, user_id=user.id, wait=True
            )
            await allocate(SYSTEM, plane.settings, request)
        for source in (ALLOCATIONS, document("MyAllocations")):
            with statements() as seen:
                actor = admin if source is ALLOCATIONS else await as_user(user)
                operation = None if source is ALLOCATIONS else "MyAllocations"
                data = await data_of(plane, actor, source, operation=operation)
            counts.setdefault(source, []).append(len(seen))
        assert len(data["viewer"]["allocations"]["edges"]) == min(
            20, data["viewer"]["quota"]["allocations"]["used"]
        )
    for source, found in counts.items():
        assert found[0] == found[1], (source, found)
        assert found[0] <= 20, (source, found)


QUERIES = {
    "gpus to machines and back": (
        "query Q($ids: [ID!]!) { nodes(ids: $ids) { ... on Gpu { machine { gpus { machine "
        "{ labels { key } latestMetrics { sampledAt } lastSeenAt } } } } } }"
    ),
    "machines by id": (
        "query Q($ids: [ID!]!) { nodes(ids: $ids) { ... on Machine { gpus { id } lastSeenAt "
        "labels { key } } } }"
    ),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_relations_are_looked_up_by_level(plane: ControlPlane, name: str) -> None:
    admin = await as_admin()
    user = await make_user()
    hosts: list[Host] = []
    counts = []
    for size in SIZES:
        await _grow(plane, hosts, size, user.id)
        ids = [gpu for host in hosts for gpu in host.gpu_ids] if "gpus" in name else None
        ids = ids or [host.id for host in hosts]
        with statements() as seen:
            data = await data_of(plane, admin, QUERIES[name], {"ids": ids[:100]})
        assert all(data["nodes"])
        counts.append(len(seen))
    assert len(set(counts)) == 1, counts
    assert counts[0] <= 10


async def test_members_of_workspaces(plane: ControlPlane) -> None:
    admin, counts = await as_admin(), []
    data: dict[str, Any] = {}
    for _ in range(3):
        for _ in range(5):
            await make_workspace(*[await make_user() for _ in range(3)])
        with statements() as seen:
            data = await data_of(
                plane,
                admin,
                "{ workspaces(first: 100) { totalCount edges { node { name members { username } } } } }",
            )
        counts.append(len(seen))
    assert len(data["workspaces"]["edges"]) == 15
    assert all(len(edge["node"]["members"]) == 3 for edge in data["workspaces"]["edges"])
    assert set(counts) == {3}


async def test_mixed_nodes_are_looked_up_by_type(plane: ControlPlane) -> None:
    admin = await as_admin()
    users = [await make_user() for _ in range(20)]
    hosts = [await make_host(plane, gpus=1) for _ in range(5)]
    ids = [encode_id("User", user.id) for user in users] + [host.id for host in hosts]
    with statements() as seen:
        data = await data_of(
            plane, admin, "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ids}
        )
    assert [node["id"] for node in data["nodes"]] == ids
    assert len(seen) == 2


async def test_an_event_of_a_subscription_sees_the_present(plane: ControlPlane) -> None:
    """Loaders keep nothing: a context lives as long as its websocket."""
    host, admin = await make_host(plane), await as_admin()
    context = Context(plane, admin)
    first = await context.loaders.machine.load(host.machine.id)
    host.machine.name = "renamed"
    await host.machine.save()
    second = await context.loaders.machine.load(host.machine.id)
    assert first is not None
    assert second is not None
    assert (first.name != second.name, second.name) == (True, "renamed")


async def test_the_counting_counts(plane: ControlPlane) -> None:
    with statements() as seen:
        await make_user()
        await make_user()
    assert len(seen) == 2

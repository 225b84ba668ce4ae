"""Questions that integrators ask over the whole fleet."""

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import Allocation
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_core.states import AllocationState
from remotegpu_graphql.ids import encode_id, split_id
from remotegpu_graphql.scalars import format_time
from remotegpu_protocol.metrics import GpuProcess
from tests.core.services.allocations.hosts import POLICY
from tests.graphql_schema.asking import ask, codes, data_of
from tests.graphql_schema.hosts import GIB, make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user, make_workspace

ALLOCATE = "mutation A($input: AllocateInput!) { allocate(input: $input) { allocation { id } userErrors { message } } }"


async def test_allocations_that_end_soon(plane: ControlPlane) -> None:
    admin, ada = await as_admin(), await make_user("ada")
    host = await make_host(plane, policy=POLICY)
    await host.grant(user_id=ada.id)
    now, ids = now_ms(), []
    for index, hours in enumerate((1, 30)):
        given = {
            "machineId": host.id,
            "gpuIds": [host.gpu_ids[index]],
            "endsAt": format_time(now + hours * HOUR),
        }
        made = await data_of(plane, await as_user(ada), ALLOCATE, {"input": given})
        ids.append(made["allocate"]["allocation"]["id"])
    fields = "(filter: $filter, orderBy: $order) { totalCount edges { node { id } } }"
    mine = (
        "query Q($filter: AllocationFilter, $order: AllocationOrder) "
        f"{{ viewer {{ allocations{fields} }} }}"
    )
    all_ = f"query Q($filter: AllocationFilter, $order: AllocationOrder) {{ allocations{fields} }}"

    async def found(ends_at: object, order: object = None) -> list[str]:
        variables = {"filter": {"endsAt": ends_at}, "order": order}
        own = (await data_of(plane, await as_user(ada), mine, variables))["viewer"]["allocations"]
        assert own == (await data_of(plane, admin, all_, variables))["allocations"]
        return [edge["node"]["id"] for edge in own["edges"]]

    assert await found({"until": format_time(now + 24 * HOUR)}) == ids[:1]
    assert await found({"since": format_time(now + 24 * HOUR)}) == ids[1:]
    assert await found({"since": format_time(now + HOUR), "until": format_time(now + HOUR)}) == []
    assert await found(None, {"field": "ENDS_AT", "direction": "DESC"}) == ids[::-1]
    later = {"filter": {"startsAt": {"since": format_time(now + HOUR)}}}
    assert (await data_of(plane, admin, all_, later))["allocations"]["totalCount"] == 0


async def test_machines_with_so_many_free_gpus(any_plane: ControlPlane) -> None:
    plane = any_plane
    admin, ada = await as_admin(), await make_user("ada")
    host = await make_host(plane, policy=POLICY)
    model = (
        await data_of(
            plane, admin, "query Q($id: ID!) { gpu(id: $id) { model } }", {"id": host.gpu_ids[0]}
        )
    )["gpu"]["model"]
    query = "query Q($free: FreeGpusFilter!) { machines(filter: {freeGpus: $free}) { edges { node { id } } } }"

    async def found(at_least: int, part: str | None = None) -> list[str]:
        shown = await data_of(plane, admin, query, {"free": {"atLeast": at_least, "model": part}})
        return [edge["node"]["id"] for edge in shown["machines"]["edges"]]

    count = len(host.gpu_ids)
    gpus = "query Q($filter: GpuFilter) { gpus(filter: $filter) { edges { node { id } } } }"

    async def listed(**chosen: object) -> set[str]:
        shown = await data_of(plane, admin, gpus, {"filter": chosen})
        return {edge["node"]["id"] for edge in shown["gpus"]["edges"]}

    everything = set(host.gpu_ids)
    assert await listed() == await listed(free=True, model=model.upper()) == everything
    assert await listed(machineId=host.id, health=["HEALTHY"], memoryAtLeast=1) == everything
    assert await listed(free=False) == await listed(memoryAtLeast=2**50) == set()
    assert await found(count, model.lower()) == [host.id]
    assert await found(count + 1) == await found(1, "no such card") == []
    ends_at = format_time(now_ms() + HOUR)
    given = {"machineId": host.id, "gpuIds": [host.gpu_ids[0]], "endsAt": ends_at}
    await data_of(plane, admin, ALLOCATE, {"input": given})
    assert await listed(free=False) == {host.gpu_ids[0]}
    assert await listed(free=True) == everything - {host.gpu_ids[0]}
    assert await found(count) == []
    assert await found(count - 1) == [host.id]
    assert codes(await ask(plane, admin, query, {"free": {"atLeast": 0}})) == ["INVALID_INPUT"]
    # Machines by how many of their GPUs are free, over page boundaries, both ways.
    for gpus_in_it in (1, 3, 4):
        await make_host(plane, f"with-{gpus_in_it}", gpus=gpus_in_it, model="L4")
    ordered = (
        "query Q($after: String, $way: OrderDirection!) { machines(first: 2, after: $after, "
        "orderBy: {field: FREE_GPUS, direction: $way}) { totalCount pageInfo { endCursor } "
        "edges { node { name } } } }"
    )
    by_count = ["with-4", "with-3"], ["with-1", host.machine.name]
    for way, pages in (("DESC", by_count), ("ASC", None)):
        names: list[str] = []
        after = None
        for _ in range(2):
            shown = (await data_of(plane, admin, ordered, {"way": way, "after": after}))["machines"]
            assert shown["totalCount"] == 4
            names += [edge["node"]["name"] for edge in shown["edges"]]
            after = shown["pageInfo"]["endCursor"]
        if pages:
            assert names[:2] == pages[0]
            assert sorted(names[2:]) == sorted(pages[1])
        else:
            assert (set(names[:2]), names[2:]) == (set(by_count[1]), by_count[0][::-1])
    other = {"way": "DESC", "after": "gqRuYW1l"}
    assert codes(await ask(plane, admin, ordered, other)) == ["INVALID_INPUT"]
    models = (
        "{ gpus(orderBy: {field: MODEL, direction: DESC}) { edges { node { model } } } "
        "last: gpus(orderBy: {field: FOUND_AT, direction: DESC}, first: 1) "
        "{ edges { node { machine { name } } } } }"
    )
    shown = await data_of(plane, admin, models)
    found_models = [edge["node"]["model"] for edge in shown["gpus"]["edges"]]
    assert found_models == sorted(found_models, reverse=True)
    assert shown["last"]["edges"][0]["node"]["machine"]["name"] == "with-4"
    # A GPU knows who has it, where that is for the viewer to see.
    has = "query Q($id: ID!) { gpu(id: $id) { allocation { id } latestMetrics { utilization } } }"
    shown = (await data_of(plane, admin, has, {"id": host.gpu_ids[0]}))["gpu"]
    assert (shown["allocation"] is None, shown["latestMetrics"]) == (False, None)
    await host.grant(user_id=ada.id)
    for gpu_id in host.gpu_ids[:2]:
        shown = (await data_of(plane, await as_user(ada), has, {"id": gpu_id}))["gpu"]
        assert shown["allocation"] is None


async def test_users_by_name(plane: ControlPlane) -> None:
    for name in ("Ada", "adam", "bob"):
        await make_user(name)
    query = (
        "query Q($filter: UserFilter) { users(filter: $filter) { edges { node { username } } } }"
    )
    shown = await data_of(plane, await as_admin(), query, {"filter": {"text": "ADA"}})
    assert [edge["node"]["username"] for edge in shown["users"]["edges"]] == ["Ada", "adam"]
    nobody = await data_of(plane, await as_admin(), query, {"filter": {"text": "%"}})
    assert nobody["users"]["edges"] == []


async def test_gpu_memory_by_user(plane: ControlPlane) -> None:
    """Processes are put down to the users of accounts, as far as the viewer may see them."""
    ada, bob, eve = [await make_user(name) for name in ("ada", "bob", "eve")]
    team = await make_workspace(ada, bob)
    host = await make_host(plane, policy=POLICY)
    for user in (ada, bob, eve):
        await host.grant(user_id=user.id)
    accounts = []
    for user, gpu_id, workspace in ((ada, host.gpu_ids[0], team), (eve, host.gpu_ids[1], None)):
        given = {
            "machineId": host.id,
            "gpuIds": [gpu_id],
            "endsAt": format_time(now_ms() + HOUR),
            "workspaceId": encode_id("Workspace", workspace.id) if workspace else None,
        }
        made = await data_of(plane, await as_user(user), ALLOCATE, {"input": given})
        parts = split_id(made["allocate"]["allocation"]["id"])
        assert parts is not None
        accounts.append(account_name(parts[1]))
    await Allocation.all().update(state=AllocationState.ACTIVE)
    running = [
        GpuProcess(1, "train", accounts[0], 3 * GIB),
        GpuProcess(2, "serve", accounts[0], GIB),
        GpuProcess(3, "train", accounts[1], GIB),
        GpuProcess(4, "hidden", accounts[1], None),
        GpuProcess(5, "Xorg", "root", GIB),
    ]
    await host.publish(processes=running)
    query = (
        "query Q($id: ID!) { gpuMemoryByUser { username memoryUsed gpuCount processCount "
        "user { username } } gpu(id: $id) { latestMetrics { uuid utilization "
        "gpu { id } processes { pid user { username } } } } }"
    )

    async def seen(actor: Actor) -> tuple[list[tuple[object, ...]], list[str | None]]:
        shown = await data_of(plane, actor, query, {"id": host.gpu_ids[1]})
        sample = shown["gpu"]["latestMetrics"]
        assert sample["uuid"] == host.gpus[1].uuid
        assert (sample["utilization"], sample["gpu"]) == (51.0, {"id": host.gpu_ids[1]})
        users: list[tuple[object, ...]] = [
            (
                *(row[name] for name in ("username", "memoryUsed", "gpuCount", "processCount")),
                row["user"] is not None,
            )
            for row in shown["gpuMemoryByUser"]
        ]
        owners = [
            None if process["user"] is None else process["user"]["username"]
            for process in sample["processes"]
        ]
        return users, owners

    adas, eves = ("ada", 8 * GIB, 2, 4), ("eve", 2 * GIB, 2, 2)
    everything = ["ada", "ada", "eve", "eve", None]
    assert await seen(await as_admin()) == ([(*adas, True), (*eves, True)], everything)
    assert await seen(await as_user(ada)) == ([(*adas, True)], ["ada", "ada", None, None, None])
    # A member sees an allocation of the workspace and its user's name, and no user.
    assert await seen(await as_user(bob)) == ([(*adas, False)], [None] * 5)
    assert await seen(await as_user(eve)) == ([(*eves, True)], [None, None, "eve", "eve", None])
    await Allocation.all().update(state=AllocationState.PENDING)
    assert await seen(await as_admin()) == ([], [None] * 5)

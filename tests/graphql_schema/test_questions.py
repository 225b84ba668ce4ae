"""Questions that integrators ask over the whole fleet."""

from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.scalars import format_time
from tests.core.services.allocations.hosts import POLICY
from tests.graphql_schema.asking import ask, codes, data_of
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import HOUR, as_admin, as_user, make_user

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

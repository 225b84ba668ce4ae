"""Equal subscriptions are executed once an event, however many follow; others are not mixed up."""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from remotegpu_api.live.group import Group
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE, USERS_AND_TOKENS, only
from tests.api.host import Host, enrolled, sample, stored
from tests.api.plane import Server
from tests.api.viewer import Operation, Viewer, viewing
from tests.core.patience import until

METRICS = "MachineMetrics"


@asynccontextmanager
async def _viewers(server: Server, *tokens: str) -> AsyncIterator[list[Viewer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(viewing(server, token)) for token in tokens]


async def _follow(viewer: Viewer, *hosts: Host, query: str = LIVE, **variables: Any) -> Operation:
    name = METRICS if query == LIVE else None
    ids = [host.id for host in hosts]
    return await viewer.subscribe(query, {"machineIds": ids, **variables}, operation=name)


def _groups(server: Server) -> list[Group]:
    return list(server.hub.groups.values())


async def test_fifty_equal_subscriptions_are_executed_once_an_event(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, _viewers(server, *[admin] * 50) as viewers:
        await link.send(sample(utilization=0))
        await stored(server, host)
        following = [await _follow(viewer, host) for viewer in viewers]
        for operation in following:
            await operation.data()
        (group,) = _groups(server)
        assert len(group.members) == 50
        assert group.executions == 1
        assert server.plane.samples.watched == {group.key.stream[1]}  # type: ignore[index]  # a stream's key is opaque to the hub
        for number in range(1, 6):
            await link.send(sample(utilization=number))
            for operation in following:
                event = (await operation.data())["machineMetrics"]
                assert event["gpus"][0]["utilization"] == number
        assert group.executions == 6
        # Byte for byte the same but for the id, which is each viewer's own.
        frames = {
            operation.frames[-1].replace(json.dumps(operation.id), '"ID"')
            for operation in following
        }
        assert len(frames) == 1
        assert all(
            json.loads(operation.frames[-1])["id"] == operation.id for operation in following
        )


async def test_overlapping_lists_of_ids_share(server: Server) -> None:
    admin = await server.sign_in()
    one, two, three = await make_hosts(server, admin, "gpu-01", "gpu-02", "gpu-03")
    document = only(LIVE, METRICS)
    async with _viewers(server, admin, admin) as (first, second):
        await _follow(first, one, two, query=document)
        await _follow(second, two, three, query=document)
        await until(lambda: sum(len(group.members) for group in _groups(server)) == 4)
        assert sorted(len(group.members) for group in _groups(server)) == [1, 1, 2]
        async with two.connected() as link:
            shared = next(group for group in _groups(server) if len(group.members) == 2)
            await link.send(sample(utilization=5))
            for viewer in (first, second):
                (operation,) = viewer.operations.values()
                assert (await operation.data())["machineMetrics"]["machineId"] == two.id
            assert shared.executions == 1


async def test_what_differs_is_not_shared(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    ada_id, ada = await server.make_user(admin, "ada")
    await server.ask(
        USERS_AND_TOKENS,
        {"machineId": host.id, "userId": ada_id},
        token=admin,
        operation="GrantMachine",
    )
    made = await server.ask(
        USERS_AND_TOKENS,
        {"input": {"name": "t", "scopes": ["READ"]}},
        token=admin,
        operation="CreateApiToken",
    )
    with_variable = (
        "subscription($machineIds: [ID!]!, $withHost: Boolean = false) "
        "{ machineMetrics(machineIds: $machineIds) "
        "{ machineId host @include(if: $withHost) { cpuUtilization } } }"
    )
    async with (
        host.connected() as link,
        _viewers(server, admin, ada, made["createApiToken"]["token"]) as viewers,
    ):
        as_admin, as_user, _ = viewers
        plain = [await _follow(viewer, host) for viewer in viewers]
        other = await _follow(as_admin, host, query=with_variable)
        hosted = await _follow(as_admin, host, query=with_variable, withHost=True)
        throttled = await as_user.subscribe(
            LIVE, {"machineIds": [host.id], "interval": 1.0}, operation="MachineMetricsEvery"
        )
        operations = [*plain, other, hosted, throttled]
        await until(lambda: len(_groups(server)) == 6)
        # Roles and scopes are apart, and so are documents, variables and intervals.
        assert all(len(group.members) == 1 for group in _groups(server))
        # A variable that the document does not declare changes nothing.
        again = await _follow(as_admin, host, undeclared=5)
        await until(lambda: max(len(group.members) for group in _groups(server)) == 2)
        await link.send(sample(utilization=9))
        events = [(await operation.data())["machineMetrics"] for operation in [*operations, again]]
        assert events[0] == events[1] == events[2] == events[6]
        assert events[3] == {"machineId": host.id}
        assert events[4] == {"machineId": host.id, "host": {"cpuUtilization": 12.5}}
        assert events[5]["gpus"][0]["utilization"] == 9.0


async def test_ids_that_are_used_elsewhere_are_part_of_the_question(server: Server) -> None:
    admin = await server.sign_in()
    one, two = await make_hosts(server, admin, "gpu-01", "gpu-02")
    literal = "subscription { machineMetrics(machineIds: %s) { machineId gpus { utilization } } }"
    async with one.connected() as link, _viewers(server, admin, admin) as (first, second):
        alone = await _follow(first, one, query=literal % json.dumps([one.id]))
        both = await _follow(second, one, two, query=literal % json.dumps([one.id, two.id]))
        await link.send(sample(utilization=3))
        for operation in (alone, both):
            event = (await operation.data())["machineMetrics"]
            assert event == {
                "machineId": one.id,
                "gpus": [{"utilization": 3.0}, {"utilization": 3.0}],
            }


async def test_a_document_that_reaches_the_viewer_runs_for_each_viewer(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    _, ada = await server.make_user(admin, "ada")
    async with _viewers(server, admin, ada) as (as_admin, as_user):
        seen = await as_admin.subscribe(LIVE, operation="MachineChanges")
        hidden = await as_user.subscribe(LIVE, operation="MachineChanges")
        for operation in (seen, hidden):
            assert (await operation.data())["machineChanged"]["kind"] == "READY"
        assert _groups(server) == []
        async with host.connected():
            change = (await seen.data())["machineChanged"]
            assert change["kind"] == "PRESENCE_CHANGED"
            assert change["machine"]["name"] == "gpu-01"
            assert change["machine"]["presence"] == "ONLINE"
            await hidden.silent(0.5)


async def test_who_comes_late_has_the_latest_at_once(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, _viewers(server, admin, admin) as (early, late):
        first = await _follow(early, host)
        await link.send(sample(utilization=4))
        await first.data()
        (group,) = _groups(server)
        second = await _follow(late, host)
        event = (await second.data(within=1))["machineMetrics"]
        assert event["gpus"][0]["utilization"] == 4.0
        assert group.executions == 1
        await first.silent(0.2)


async def test_a_group_ends_with_its_last_member(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with _viewers(server, admin, admin) as (one, two):
        first, second = await _follow(one, host), await _follow(two, host)
        await until(lambda: sum(len(group.members) for group in _groups(server)) == 2)
        channel = f"rg:sample:{host.machine_id}"
        await until(lambda: channel in server.plane.bus.listener.channels)
        await one.complete(first)
        await until(lambda: sum(len(group.members) for group in _groups(server)) == 1)
        assert channel in server.plane.bus.listener.channels
        await two.complete(second)
        await until(lambda: not _groups(server) and not server.plane.samples.watched)
        await until(lambda: channel not in server.plane.bus.listener.channels)
        # And it begins anew for the next.
        async with host.connected() as link:
            third = await _follow(one, host)
            await link.send(sample(utilization=6))
            event = (await third.data())["machineMetrics"]
            assert event["gpus"][0]["utilization"] == 6.0


async def test_joining_and_leaving_in_a_hurry_leaves_nothing_behind(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, _viewers(server, *[admin] * 5) as viewers:
        for _ in range(20):
            started = [await _follow(viewer, host) for viewer in viewers]
            for viewer, operation in zip(viewers, started, strict=True):
                await viewer.complete(operation)
        await until(lambda: not _groups(server) and not server.plane.samples.watched)
        operation = await _follow(viewers[0], host)
        await link.send(sample(utilization=8))
        event = (await operation.data())["machineMetrics"]
        assert event["gpus"][0]["utilization"] == 8.0

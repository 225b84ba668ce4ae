"""The consumers' subscriptions, as they stand, over real samples and changes."""

import asyncio

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import MachineChange
from remotegpu_core.services.presence import disconnect
from remotegpu_graphql.errors import RequestRefused
from tests.graphql_schema.asking import eventually, following
from tests.graphql_schema.contract import document
from tests.graphql_schema.hosts import GIB, make_host
from tests.graphql_schema.people import (
    as_admin,
    as_user,
    make_user,
)


async def test_machine_metrics(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user()
    hosts = [await make_host(plane, gpus=1) for _ in range(2)]
    for host in hosts:
        await host.grant(user_id=user.id)
        await host.publish(1_000)
    source, ids = document("MachineMetrics"), [host.id for host in hosts]
    actor = await as_user(user)
    async with following(
        plane, actor, source, {"machineIds": ids}, operation="MachineMetrics"
    ) as live:
        first = [(await live.data())["machineMetrics"] for _ in hosts]
        assert {event["machineId"] for event in first} == set(ids)
        assert first[0] == {
            "machineId": first[0]["machineId"],
            "sampledAt": "1970-01-01T00:00:01.000Z",
            "host": {
                "cpuUtilization": 12.5,
                "memoryUsed": 100 * GIB,
                "memoryTotal": 1536 * GIB,
            },
            "gpus": [
                {
                    "index": 0,
                    "uuid": first[0]["gpus"][0]["uuid"],
                    "utilization": 50.0,
                    "memoryUsed": 40 * GIB,
                    "memoryTotal": 80 * GIB,
                    "temperature": 61.0,
                    "power": 350.5,
                    "smClock": 1980,
                }
            ],
        }
        await hosts[1].publish(2_000, utilization=None)
        event = (await live.data())["machineMetrics"]
        assert event["machineId"] == hosts[1].id
        assert event["gpus"][0]["utilization"] is None


async def test_machine_metrics_every(plane: ControlPlane) -> None:
    host, admin = await make_host(plane, gpus=1), await as_admin()
    await host.publish(1_000)
    variables = {"machineIds": [host.id], "interval": 1.5}
    async with following(
        plane, admin, document("MachineMetricsEvery"), variables, operation="MachineMetricsEvery"
    ) as live:
        first = (await live.data())["machineMetrics"]
        assert first["gpus"] == [{"index": 0, "uuid": host.gpus[0].uuid, "utilization": 50.0}]
        await eventually(lambda: plane.bus.wished_rate(host.machine.id), 1.5)
        began = asyncio.get_running_loop().time()
        for at in (1_100, 1_200, 1_300):
            await host.publish(at)
        # The newest of them, once the interval is over.
        assert (await live.data())["machineMetrics"]["sampledAt"] == "1970-01-01T00:00:01.300Z"
        assert asyncio.get_running_loop().time() - began > 0.5


async def test_machine_changes(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user()
    host = await make_host(plane)
    await host.grant(user_id=user.id)
    actor, source = await as_user(user), document("MachineChanges")
    async with following(plane, actor, source, operation="MachineChanges") as live:
        ready = (await live.data())["machineChanged"]
        assert ready == {
            "cursor": ready["cursor"],
            "kind": "READY",
            "machineId": None,
            "machine": None,
        }
        await make_host(plane, "not-for-them")
        await disconnect(host.machine.id, host.epoch, last_seen_at=now_ms())
        change = (await live.data())["machineChanged"]
        assert change == {
            "cursor": change["cursor"],
            "kind": "PRESENCE_CHANGED",
            "machineId": host.id,
            "machine": {
                "id": host.id,
                "name": host.machine.name,
                "presence": "UNREACHABLE",
                "lifecycle": "IN_SERVICE",
                "health": "HEALTHY",
            },
        }
    async with following(
        plane, actor, source, {"after": ready["cursor"]}, operation="MachineChanges"
    ) as again:
        assert (await again.data())["machineChanged"] == change


async def test_machine_changes_after_a_cursor_that_is_not_kept(plane: ControlPlane) -> None:
    await make_host(plane)
    await MachineChange.filter(sequence__lte=2).delete()
    source = document("MachineChanges")
    async with following(
        plane, await as_admin(), source, {"after": "0"}, operation="MachineChanges"
    ) as live:
        with pytest.raises(RequestRefused) as refused:
            await live.next()
    (error,) = refused.value.errors
    assert error.extensions == {"code": "CURSOR_EXPIRED", "field": ["after"]}


async def test_fleet_pulse(plane: ControlPlane) -> None:
    host = await make_host(plane, gpus=2)
    async with following(
        plane, await as_admin(), document("FleetPulse"), operation="FleetPulse"
    ) as live:
        assert (await live.data())["fleetChanged"] == {
            "machines": {"online": 1, "allocated": 0},
            "gpus": {"available": 2, "allocated": 0, "utilization": None, "power": None},
        }
        await host.publish()
        assert (await live.data())["fleetChanged"]["gpus"] == {
            "available": 2,
            "allocated": 0,
            "utilization": 50.5,
            "power": 701.0,
        }

"""`machineMetrics`: the latest at once, then every sample, as fast as somebody asks for it."""

import asyncio
import json
import time
import uuid

import pytest

from remotegpu_core.bus import bus as bus_module
from remotegpu_core.clock import now_ms
from remotegpu_core.live import samples
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE
from tests.api.host import enrolled, inventory, sample, stored
from tests.api.plane import Server
from tests.api.viewer import viewing
from tests.core.patience import until

METRICS = "MachineMetrics"
EVERY = "MachineMetricsEvery"


async def test_the_latest_comes_at_once_and_then_every_new_one(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, viewing(server, admin) as viewer:
        at = now_ms() - 1000
        await link.send(sample(at, utilization=1))
        await stored(server, host)
        operation = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation=METRICS)
        first = (await operation.data(within=2))["machineMetrics"]
        assert first["machineId"] == host.id
        assert first["host"] == {
            "cpuUtilization": 12.5,
            "memoryUsed": 8 * 1024**3,
            "memoryTotal": 64 * 1024**3,
        }
        assert first["gpus"][1] == {
            "index": 1,
            "uuid": "GPU-1",
            "utilization": 1.0,
            "memoryUsed": 10 * 1024**3,
            "memoryTotal": 80 * 1024**3,
            "temperature": 61.0,
            "power": 312.5,
            "smClock": 1980,
        }
        for utilization in (2.0, 3.0, 4.0):
            await link.send(sample(utilization=utilization))
            event = (await operation.data())["machineMetrics"]
            assert event["gpus"][0]["utilization"] == utilization
        await operation.silent(0.3)


async def test_several_machines_in_one_subscription(server: Server) -> None:
    admin = await server.sign_in()
    one, two = await make_hosts(server, admin, "gpu-01", "gpu-02")
    async with one.connected() as first, two.connected() as second, viewing(server, admin) as v:
        await first.send(sample(utilization=1))
        await second.send(sample(utilization=2))
        operation = await v.subscribe(
            LIVE, {"machineIds": [one.id, two.id, one.id]}, operation=METRICS
        )
        seen = {}
        for _ in range(2):
            event = (await operation.data())["machineMetrics"]
            seen[event["machineId"]] = event["gpus"][0]["utilization"]
        assert seen == {one.id: 1.0, two.id: 2.0}
        await second.send(sample(utilization=3))
        event = (await operation.data())["machineMetrics"]
        assert (event["machineId"], event["gpus"][0]["utilization"]) == (two.id, 3.0)


async def test_a_machine_without_a_sample_begins_with_its_first(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        operation = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation=METRICS)
        await operation.silent(0.3)
        async with host.connected() as link:
            await link.send(sample(utilization=7))
            event = (await operation.data())["machineMetrics"]
            assert event["gpus"][0]["utilization"] == 7.0


async def test_an_interval_throttles(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, viewing(server, admin) as viewer:
        await link.send(sample(utilization=0))
        operation = await viewer.subscribe(
            LIVE, {"machineIds": [host.id], "interval": 0.5}, operation=EVERY
        )
        await operation.data()
        began = time.monotonic()
        for number in range(1, 31):
            await link.send(sample(now_ms() + number, utilization=number))
            await asyncio.sleep(0.04)
        took = time.monotonic() - began
        await asyncio.sleep(0.6)
        values = []
        while operation.waiting:
            values.append((await operation.data())["machineMetrics"]["gpus"][0]["utilization"])
        # 30 samples in 1.2 s are 3 or 4 events, and the newest is among them.
        assert len(values) <= took / 0.5 + 2
        assert len(values) >= 2
        assert values[-1] == 30.0
        assert values == sorted(values)


async def test_an_absurd_interval_is_explained(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        for interval in (0.05, 0.0, -1.0, 3601.0, 1e300):
            operation = await viewer.subscribe(
                LIVE, {"machineIds": [host.id], "interval": interval}, operation=EVERY
            )
            ended = await operation.end()
            assert ended.errors[0]["extensions"]["code"] == "INVALID_INPUT"
            assert ended.errors[0]["extensions"]["field"] == ["intervalSeconds"]


async def test_an_interval_that_is_no_number_is_an_error(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        # JSON has no NaN, and some encoders write it all the same.
        await viewer.websocket.send(
            json.dumps(
                {
                    "id": "1",
                    "type": "subscribe",
                    "payload": {"query": LIVE, "operationName": EVERY, "variables": {"x": "NaN"}},
                }
            ).replace('"NaN"', "NaN")
        )
        assert (await viewer.closed())[0] == 4400


async def test_hosts_sample_faster_while_somebody_asks_for_it(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        async with viewing(server, admin) as viewer:
            # Without a wish, as dashboards draw.
            usual = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation=METRICS)
            wish = await link.watched_at(1.0, within=3)
            assert wish.lease == 30.0
            fast = await viewer.subscribe(
                LIVE, {"machineIds": [host.id], "interval": 0.1}, operation=EVERY
            )
            await link.watched_at(0.1, within=3)
            # The fastest decides; when it leaves, the next one does.
            await viewer.complete(fast)
            await link.watched_at(1.0, within=3)
            await viewer.complete(usual)
            withdrawn = await link.watched_at(5.0, within=3)
            assert withdrawn.lease == 0.0
            await viewer.subscribe(
                LIVE, {"machineIds": [host.id], "interval": 0.2}, operation=EVERY
            )
            await link.watched_at(0.2, within=3)
        # A viewer that goes without a word is withdrawn too.
        assert (await link.watched_at(5.0, within=3)).lease == 0.0


async def test_a_host_that_connects_later_hears_of_the_wish(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        await viewer.subscribe(LIVE, {"machineIds": [host.id], "interval": 0.5}, operation=EVERY)
        await until(lambda: server.plane.samples.watched)
        for _ in range(2):
            async with host.connected() as link:
                await link.watched_at(0.5, within=3)


async def test_a_wish_is_renewed_before_it_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "WATCH_LIFETIME", 900)
    monkeypatch.setattr(samples, "WATCH_LIFETIME", 900)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    # The feed of this server still waits for its next, long round.
    await server.plane.samples.stop()
    server.plane.samples.start()
    async with viewing(server, admin) as viewer, host.connected() as link:
        await viewer.subscribe(LIVE, {"machineIds": [host.id], "interval": 0.5}, operation=EVERY)
        await link.watched_at(0.5)
        await asyncio.sleep(2)
        assert await server.plane.bus.wished_rate(uuid.UUID(host.machine_id)) == 0.5


async def test_latest_metrics_are_those_of_the_stream(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    query = (
        "query($id: ID!) { machine(id: $id) "
        "{ lastSeenAt latestMetrics { sampledAt gpus { utilization } } } }"
    )
    before = (await server.ask(query, {"id": host.id}, token=admin))["machine"]
    assert before == {"lastSeenAt": None, "latestMetrics": None}
    async with host.connected() as link, viewing(server, admin) as viewer:
        await link.send_inventory(inventory("GPU-0", "GPU-1"))
        operation = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation=METRICS)
        await link.send(sample(utilization=42))
        event = (await operation.data())["machineMetrics"]
        machine = (await server.ask(query, {"id": host.id}, token=admin))["machine"]
        assert machine["lastSeenAt"] is not None
        assert machine["latestMetrics"]["sampledAt"] == event["sampledAt"]
        assert machine["latestMetrics"]["gpus"][0]["utilization"] == 42.0

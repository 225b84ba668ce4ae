"""GET /metrics without a Prometheus: what is exposed, what is not, and what it costs."""

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as ParsedSample

from remotegpu_api.telemetry import Executions
from remotegpu_api.web import prometheus
from remotegpu_api.web.prometheus import MAX_SCRAPES
from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.exposition.fleet import FleetText, Group, expose_fleet
from remotegpu_core.states import Lifecycle, Presence
from remotegpu_protocol.codec import encode
from remotegpu_protocol.inventory import DriverState, GpuInventory, HostInventory, Inventory
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics
from tests.api.documents import LIVE
from tests.api.host import GIB, Host, Link, enrolled, inventory, sample
from tests.api.plane import Backend, Server, serving
from tests.api.viewer import viewing
from tests.core.hosts import make_machine
from tests.core.patience import eventually, until
from tests.services.postgres import running_postgres
from tests.services.redis import RedisServer

UTIL = "DCGM_FI_DEV_GPU_UTIL"


class Scrape:
    """One answer, taken apart by prometheus-client's parser."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            parsed for family in text_string_to_metric_families(text) for parsed in family.samples
        ]

    def of(self, name: str, **labels: str) -> list[ParsedSample]:
        return [
            found
            for found in self.samples
            if found.name == name and labels.items() <= found.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        [found] = self.of(name, **labels)
        return found.value


async def scrape(server: Server) -> Scrape:
    response = await server.http.get("/metrics")
    assert response.status_code == 200, response.text
    return Scrape(response.text)


async def latest(server: Server, host: Host, at: int) -> None:
    """Wait until the sample taken at `at` is the newest that the bus knows."""
    machine_id = uuid.UUID(host.machine_id)

    async def arrived() -> bool:
        known = (await server.plane.bus.live([machine_id]))[machine_id].sample
        return known is not None and known.metrics.sampled_at == at

    await eventually(arrived)


async def told(server: Server, host: Host, link: Link, said: Metrics) -> Scrape:
    """Send a sample, and scrape once it is there."""
    await link.send(said)
    await latest(server, host, said.sampled_at)
    return await scrape(server)


async def test_a_gpu_has_the_exporters_labels(any_server: Server) -> None:
    server = any_server
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected() as link:
        said = Inventory(
            revision=1,
            host=HostInventory(
                hostname="node-a.example.org",
                driver_state=DriverState.READY,
                driver_version="570.86.15",
            ),
            gpus=[
                GpuInventory(
                    index=4,
                    uuid="GPU-0",
                    model='NVIDIA "H100" \\ ☃',
                    pci_bus_id="00000000:1B:00.0",
                )
            ],
        )
        await link.send_inventory(said)
        found = await told(server, host, link, sample(gpus=1, utilization=37.5))
    [gpu] = found.of(UTIL)
    assert gpu.value == 37.5
    measured = {
        "gpu": "4",
        "UUID": "GPU-0",
        "Hostname": "node-a.example.org",
        "machine": "gpu-01",
    }
    assert gpu.labels == measured
    [info] = found.of("remotegpu_gpu_info")
    assert info.value == 1
    assert info.labels == measured | {
        "pci_bus_id": "00000000:1B:00.0",
        "device": "nvidia4",
        "modelName": 'NVIDIA "H100" \\ ☃',
        "DCGM_FI_DRIVER_VERSION": "570.86.15",
    }
    assert found.value("DCGM_FI_DEV_FB_USED") == 10 * 1024
    assert found.value("DCGM_FI_DEV_FB_FREE") == 70 * 1024
    [memory] = found.of("node_memory_MemAvailable_bytes")
    assert memory.value == 56 * GIB
    assert memory.labels == {"machine": "gpu-01", "Hostname": "node-a.example.org"}


async def test_a_null_is_not_exposed_as_zero(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected() as link:
        await link.send_inventory(inventory("GPU-0", "GPU-1"))
        said = Metrics(
            sampled_at=now_ms(),
            host=HostMetrics(load1=0.0),
            gpus=[
                GpuMetrics(index=0, uuid="GPU-0", utilization=0.0),
                GpuMetrics(index=1, uuid="GPU-1", temperature=55.0),
            ],
        )
        found = await told(server, host, link, said)
    assert [(s.labels["UUID"], s.value) for s in found.of(UTIL)] == [("GPU-0", 0.0)]
    assert [(s.labels["UUID"], s.value) for s in found.of("DCGM_FI_DEV_GPU_TEMP")] == [
        ("GPU-1", 55.0)
    ]
    assert {s.name for s in found.samples if s.name.startswith("DCGM")} == {
        UTIL,
        "DCGM_FI_DEV_GPU_TEMP",
    }
    assert {s.name for s in found.samples if s.name.startswith("node_")} == {"node_load1"}


async def test_a_scrape_may_ask_for_a_part(server: Server) -> None:
    admin = await server.sign_in()
    hosts = [await enrolled(server, admin, f"gpu-{number}") for number in range(4)]
    async with AsyncExitStack() as links:
        for number, host in enumerate(hosts):
            link = await links.enter_async_context(host.connected())
            await link.send_inventory(inventory(f"GPU-{number}"))
            said = sample(gpus=1, utilization=1)
            said = replace(said, gpus=[replace(said.gpus[0], uuid=f"GPU-{number}")])
            await told(server, host, link, said)

        async def series(query: str, **headers: str) -> set[str]:
            response = await server.http.get(f"/metrics?{query}", headers=headers)
            assert response.status_code == 200, response.text
            lines = [line for line in response.text.splitlines() if not line.startswith("#")]
            # What the process says of itself changes from one scrape to the next.
            lines = [line for line in lines if "remotegpu_sample_age" not in line]
            found = {line.rsplit(" ", 1)[0] for line in lines}
            assert len(found) == len(lines)
            return found

        whole = await series("")
        parts = {name: await series(f"collect[]={name}") for name in Group}
        assert set.union(*parts.values()) >= whole
        assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
        assert {line.split("_")[0] for line in parts[Group.GPU]} == {"DCGM", "remotegpu"}
        assert await series("collect[]=gpu&collect[]=host") == (
            parts[Group.GPU] | parts[Group.HOST]
        )
        machines = {line for line in whole if 'machine="' in line}
        shards = [await series(f"shard={number}&shards=3") for number in range(3)]
        assert set.union(*shards) >= machines
        assert sum(len(shard & machines) for shard in shards) == len(machines)
        assert not any("process_" in line for line in shards[1] | shards[2])
        # Compressed for those who take it, and for no others.
        for accept in ("identity", "gzip;q=0, *", "br"):
            answer = await server.http.get("/metrics", headers={"accept-encoding": accept})
            assert ("content-encoding" in answer.headers) is False
        for accept in ("gzip", "br;q=1, *;q=0.5"):
            answer = await server.http.get("/metrics", headers={"accept-encoding": accept})
            assert answer.headers["content-encoding"] == "gzip"
            assert "DCGM_FI_DEV_GPU_UTIL" in answer.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("collect[]=cpu", "Unknown group 'cpu'"),
        ("collect=gpu", "Unknown parameter 'collect'"),
        ("shards=65", "shards is one whole number from 1 to 64; got '65'"),
        ("shards=4", "shard is one whole number from 0 to 3; got none"),
        ("shard=4&shards=4", "from 0 to 3; got '4'"),
        ("shard=-1&shards=4", "got '-1'"),
        ("shard=1", "from 0 to 0"),
        ("shard=0&shard=1&shards=2", "one whole number"),
    ],
)
async def test_an_unknown_part_is_explained(server: Server, query: str, said: str) -> None:
    answer = await server.http.get(f"/metrics?{query}")
    assert (answer.status_code, said in answer.text) == (400, True), answer.text


async def test_scrapes_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, go_on = 0, asyncio.Event()

    async def standing_still(*arguments: Any, **named: Any) -> FleetText:
        nonlocal waiting
        waiting += 1
        await go_on.wait()
        return await expose_fleet(*arguments, **named)

    monkeypatch.setattr(prometheus, "expose_fleet", standing_still)
    async with AsyncExitStack() as closing:
        readers: list[asyncio.StreamReader] = []
        for _ in range(MAX_SCRAPES):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            closing.callback(writer.close)
            readers.append(reader)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: waiting == 1)

        async def refused() -> bool:
            try:
                answer = await server.http.get("/metrics", timeout=0.2)
            except httpx.TimeoutException:
                return False
            return (answer.status_code, answer.headers.get("retry-after")) == (503, "5")

        await eventually(refused)
        go_on.set()
        assert (await readers[0].readline()) == b"HTTP/1.1 200 OK\r\n"
    assert (await scrape(server)).value("remotegpu_agents_connected") == 0


async def test_only_a_hosts_own_gpus_each_once(server: Server) -> None:
    admin = await server.sign_in()
    honest, liar = await enrolled(server, admin, "honest"), await enrolled(server, admin, "liar")
    async with honest.connected() as good, liar.connected() as bad:
        await good.send_inventory(inventory("GPU-0"))
        await bad.send_inventory(inventory("GPU-1", "GPU-0"))
        await good.send(sample(gpus=1, utilization=10))
        own = [GpuMetrics(index=0, uuid="GPU-1", utilization=20.0)]
        stolen = [GpuMetrics(index=2, uuid="GPU-0", utilization=99.0)]
        said = Metrics(sampled_at=now_ms(), host=HostMetrics(), gpus=own + stolen)
        found = await told(server, liar, bad, said)
        # Refused as a whole, and told.
        invented = [GpuMetrics(index=3, uuid="GPU-2", utilization=99.0)]
        for gpus in (own * 2, own + invented):
            await bad.send(Metrics(sampled_at=now_ms() + 5, host=HostMetrics(), gpus=gpus))
        await bad.until(lambda: len(bad.errors("INVALID_VALUE")) == 2)
        assert (await scrape(server)).of(UTIL) == found.of(UTIL)
    assert {(s.labels["machine"], s.labels["UUID"]): s.value for s in found.of(UTIL)} == {
        ("honest", "GPU-0"): 10.0,
        ("liar", "GPU-1"): 20.0,
    }
    assert len(found.of(UTIL)) == 2


@pytest.mark.parametrize(("age", "shown"), [(110_000, 1), (121_000, 0)])
async def test_a_sample_older_than_two_minutes_is_not_exposed(
    server: Server, age: int, shown: int
) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected() as link:
        await link.send_inventory(inventory("GPU-0"))
        said = sample(now_ms() - age, gpus=1)
        kept = Sample(link.epoch, said.sampled_at, encode(said))
        await server.plane.bus.publish_sample(uuid.UUID(host.machine_id), kept)
        await latest(server, host, said.sampled_at)
        found = await scrape(server)
    assert len(found.of(UTIL)) == shown
    assert len(found.of("node_memory_MemTotal_bytes")) == shown
    # The machine is there all the same.
    assert found.value("remotegpu_machine_presence", presence="ONLINE") == 1


async def test_a_sample_of_another_connection_is_not_exposed(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    machine_id = uuid.UUID(host.machine_id)
    async with host.connected() as link:
        await link.send_inventory(inventory("GPU-0"))
        assert len((await told(server, host, link, sample(gpus=1))).of(UTIL)) == 1
        # As another process would that took the machine over a moment ago.
        newer = sample(now_ms() + 1, gpus=1)
        await server.plane.bus.publish_sample(
            machine_id, Sample(link.epoch + 1, newer.sampled_at, encode(newer))
        )
        await latest(server, host, newer.sampled_at)
        assert (await scrape(server)).of(UTIL) == []


async def test_presence_of_every_machine(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "here")
    await enrolled(server, admin, "never-came")
    await make_machine("gone", presence=Presence.LOST, replica_id=uuid.uuid4(), last_seen_at=5000)
    await make_machine("retired", lifecycle=Lifecycle.RETIRED)
    async with host.connected():
        found = await scrape(server)
    held = {
        s.labels["machine"]: s.labels["presence"]
        for s in found.samples
        if s.name == "remotegpu_machine_presence" and s.value == 1
    }
    assert held == {"here": "ONLINE", "never-came": "UNREACHABLE", "gone": "LOST"}
    assert len(found.of("remotegpu_machine_presence")) == 9
    seen = "remotegpu_machine_last_seen_timestamp_seconds"
    assert found.value(seen, machine="gone") == 5.0
    assert abs(found.value(seen, machine="here") - time.time()) < 30


async def test_the_servers_own_health(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, viewing(server, admin) as one, viewing(server) as _two:
        await link.send_inventory(inventory("GPU-0"))
        operations = [
            await one.subscribe(LIVE, {"machineIds": [host.id]}, operation="MachineMetrics")
            for _ in range(2)
        ]
        await until(lambda: len(server.hub.groups) == 1)
        for utilization in (1.0, 2.0):
            await link.send(sample(gpus=1, utilization=utilization))
            for operation in operations:
                await operation.data()
        found = await scrape(server)
        assert found.value("remotegpu_agents_connected") == 1
        assert found.value("remotegpu_viewers_connected") == 2
        assert found.value("remotegpu_subscriptions_active") == 2
        assert found.value("remotegpu_groups_active") == 1
        assert found.value("remotegpu_machines_watched") == 1
        assert found.value("remotegpu_executions_total") == 2
    await until(lambda: not server.hub.groups)
    after = await scrape(server)
    assert after.value("remotegpu_executions_total") == 2
    assert after.value("remotegpu_viewers_connected") == 0
    assert after.value("remotegpu_bus_writes_dropped_total") == 0
    assert after.value("remotegpu_bus_writes_pending") >= 0
    assert after.value("remotegpu_dependency_up", dependency="database") == 1
    assert after.value("remotegpu_dependency_up", dependency="bus") == 1
    while not after.value("remotegpu_event_loop_lag_seconds_count"):
        # Measured once a second, and all of the above may have taken less.
        await asyncio.sleep(0.1)
        after = await scrape(server)
    assert after.value("process_resident_memory_bytes") > 10_000_000
    [info] = after.of("remotegpu_server_info")
    assert info.labels["replica"] == str(server.plane.replica_id)


async def test_requests_are_timed_under_names_that_callers_cannot_make_up(server: Server) -> None:
    await server.http.get("/healthz")
    await server.http.get("/static/style.css")
    for path in ("/nothing", "/nothing/else", "/healthz/x", "/metrics/x"):
        await server.http.get(path)
    await server.http.request("PROPFIND", "/healthz")
    found = await scrape(server)
    counts = {
        (s.labels["method"], s.labels["path"], s.labels["status"]): s.value
        for s in found.of("remotegpu_http_request_duration_seconds_count")
    }
    assert counts == {
        ("GET", "/healthz", "200"): 1,
        ("GET", "/static", "200"): 1,
        ("GET", "other", "404"): 4,
        ("other", "/healthz", "405"): 1,
    }


async def test_nothing_of_the_global_registry_comes_along(server: Server) -> None:
    assert REGISTRY.get_sample_value("process_start_time_seconds") is not None
    names = {metric.name for metric in REGISTRY.collect()}
    assert "python_info" in names
    found = await scrape(server)
    assert not [s.name for s in found.samples if s.name.startswith("python_")]
    assert not [s.name for s in found.samples if s.name.endswith("_created")]


async def test_what_is_away_is_said_and_the_rest_goes_on(
    tmp_path: Path, private_redis: RedisServer
) -> None:
    with running_postgres() as postgres, postgres.database() as url:
        backend = Backend("scaled out", database_url=url, redis_url=private_redis.url)
        async with serving(backend, tmp_path / "state") as server:
            host = await enrolled(server, await server.sign_in(), "gpu-01")
            async with host.connected() as link:
                await link.send_inventory(inventory("GPU-0"))
                assert len((await told(server, host, link, sample(gpus=1))).of(UTIL)) == 1
                # Beside the server's loop, which would not hear its agents meanwhile.
                await asyncio.to_thread(postgres.stop)
                found = await scrape(server)
                assert found.value("remotegpu_dependency_up", dependency="database") == 0
                # Names are remembered, presence is not known.
                assert found.value(UTIL, machine="gpu-01") == 50.0
                assert found.of("remotegpu_machine_presence") == []
                await asyncio.to_thread(postgres.start)
                private_redis.kill()
                found = await scrape(server)
                assert found.value("remotegpu_dependency_up", dependency="bus") == 0
                assert found.of(UTIL) == []
                assert found.value("remotegpu_agents_connected") == 1


class Counting:
    def __init__(self, executions: int) -> None:
        self.executions = executions


def test_executions_outlive_their_groups() -> None:
    one, two, counted = Counting(3), Counting(4), Executions()
    assert counted.look([one, two]) == 7
    one.executions = 5
    assert counted.look([two]) == 9
    assert counted.look([]) == 9

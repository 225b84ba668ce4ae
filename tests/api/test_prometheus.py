"""A real Prometheus scrapes real servers, with the configuration that is deployed."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from remotegpu_protocol.limits import SUBPROTOCOL
from remotegpu_protocol.metrics import Metrics
from tests.api.host import Host, Link, enrolled, inventory, sample
from tests.api.plane import ADMIN_PASSWORD, Backend, Server, serving
from tests.core.patience import eventually
from tests.layout.house import ROOT
from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK, unused_port
from tests.services.process import ServerProcess
from tests.services.programs import find_program
from tests.services.prometheus import PrometheusServer, Series, running_prometheus

TOKEN = "prometheus-reads-0123456789"
UTIL = "DCGM_FI_DEV_GPU_UTIL"
ONLINE = 'remotegpu_machine_presence{presence="ONLINE"}'


@contextmanager
def second_replica(backend: Backend) -> Iterator[str]:
    """Another process on the same database and Redis, by its address."""
    assert backend.database_url is not None
    assert backend.redis_url is not None
    port = unused_port()
    address = f"{LOOPBACK}:{port}"
    with server_directory("replica") as folder:
        settings = {
            "PORT": str(port),
            "DATA_DIR": str(folder),
            "DATABASE_URL": backend.database_url,
            "REDIS_URL": backend.redis_url,
            "ADMIN_PASSWORD": ADMIN_PASSWORD,
            "METRICS_TOKEN": TOKEN,
        }
        process = ServerProcess(
            [
                "/usr/bin/env",
                *(f"REMOTEGPU_{name}={value}" for name, value in settings.items()),
                sys.executable,
                *("-c", "from remotegpu_api.cli import main; main()", "serve"),
            ],
            log=folder / "replica.log",
        )
        try:
            process.wait_until(lambda: healthy(address))
            yield address
        finally:
            process.stop()


def healthy(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@asynccontextmanager
async def connected_to(host: Host, address: str) -> AsyncIterator[Link]:
    """The host's link to the server at `address`, in whatever process that is."""
    async with connect(
        f"ws://{address}/agent",
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
        close_timeout=0.5,
    ) as websocket:
        link = Link(websocket, host.opening(origin=f"http://{address}"), 0)
        try:
            yield await link.open()
        finally:
            await link.stop()


@asynccontextmanager
async def sampling(link: Link, said: Callable[[], Metrics]) -> AsyncIterator[None]:
    """Samples as an agent sends them, until the block ends."""

    async def run() -> None:
        while True:
            await link.send(said())
            await asyncio.sleep(0.2)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def one_gpu(uuid: str, utilization: float) -> Callable[[], Metrics]:
    def said() -> Metrics:
        whole = sample(gpus=1, utilization=utilization)
        return replace(whole, gpus=[replace(whole.gpus[0], uuid=uuid)])

    return said


class Asking:
    """PromQL from a test whose own loop serves what is scraped."""

    def __init__(self, prometheus: PrometheusServer) -> None:
        self._prometheus = prometheus

    async def query(self, promql: str) -> list[tuple[Series, float]]:
        return await asyncio.to_thread(self._prometheus.query, promql)

    async def values(self, promql: str, *labels: str) -> dict[tuple[str, ...], float]:
        found = await self.query(promql)
        values = {tuple(series.get(label, "") for label in labels): v for series, v in found}
        assert len(values) == len(found), found
        return values

    async def until(
        self, promql: str, expected: dict[tuple[str, ...], float], *labels: str
    ) -> None:
        """Wait until the answer is this, by the labels named."""

        async def answered() -> bool:
            return await self.values(promql, *labels) == expected

        try:
            await eventually(answered, patience=30)
        except AssertionError:
            got = await self.query(promql)
            said = await asyncio.to_thread(self._prometheus.errors)
            pytest.fail(f"{promql}: expected {expected}, got {got}; Prometheus says {said}")

    async def no_complaints(self) -> None:
        assert await asyncio.to_thread(self._prometheus.errors) == []


@asynccontextmanager
async def scraping(*addresses: str) -> AsyncIterator[Asking]:
    starting = running_prometheus(addresses, TOKEN)
    prometheus = await asyncio.to_thread(starting.__enter__)
    try:
        yield Asking(prometheus)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


def address_of(server: Server) -> str:
    return f"{LOOPBACK}:{server.port}"


async def test_values_units_and_staleness(embedded: Backend, tmp_path: Path) -> None:
    async with (
        serving(embedded, tmp_path / "state", metrics_token=TOKEN) as server,
        scraping(address_of(server)) as prometheus,
    ):
        host = await enrolled(server, await server.sign_in(), "gpu-01")
        async with host.connected() as link:
            await link.send_inventory(inventory("GPU-0", "GPU-1", hostname='a "quoted" name'))
            async with sampling(link, lambda: sample(gpus=2, utilization=37.5)):
                await prometheus.until(UTIL, {("GPU-0",): 37.5, ("GPU-1",): 37.5}, "UUID")
                [first, _] = await prometheus.query(f"sort_desc({UTIL})")
                assert first[0] == {
                    "__name__": UTIL,
                    "job": "remotegpu",
                    "instance": "gpu-01",
                    "machine": "gpu-01",
                    "gpu": first[0]["gpu"],
                    "UUID": f"GPU-{first[0]['gpu']}",
                    "Hostname": 'a "quoted" name',
                }
                joined = f"{UTIL} * on (UUID) group_left (modelName) remotegpu_gpu_info"
                model: dict[tuple[str, ...], float] = {
                    (f"GPU-{index}", "NVIDIA H100"): 37.5 for index in (0, 1)
                }
                await prometheus.until(joined, model, "UUID", "modelName")
                # As boards and rules for the exporters ask.
                share = "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"
                await prometheus.until(share, {("0",): 0.125, ("1",): 0.125}, "gpu")
                used = "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes"
                await prometheus.until(used, {("gpu-01",): 0.125}, "instance")
                by_machine = "sum by (Hostname) (DCGM_FI_DEV_POWER_USAGE)"
                await prometheus.until(by_machine, {('a "quoted" name',): 625.0}, "Hostname")
                await prometheus.until(ONLINE, {("gpu-01",): 1}, "instance")
                assert await prometheus.query("DCGM_FI_DEV_FAN_SPEED") == []
                asked = 'remotegpu_http_request_duration_seconds_count{path="/graphql"}'
                await prometheus.until(
                    f"{asked} > bool 0", {("POST", "200"): 1}, "method", "status"
                )
        # The link is gone: Prometheus must not go on with the last value for its five minutes.
        await prometheus.until(UTIL, {}, "UUID")
        await prometheus.until("node_memory_MemTotal_bytes", {}, "instance")
        await prometheus.until("remotegpu_agents_connected", {("remotegpu",): 0}, "job")
        await prometheus.until("up", {(address_of(server),): 1}, "instance")
        await prometheus.no_complaints()


async def test_two_replicas_expose_each_machine_once(scaled_out: Backend, tmp_path: Path) -> None:
    starting = second_replica(scaled_out)
    async with serving(scaled_out, tmp_path / "state", metrics_token=TOKEN) as server:
        other = await asyncio.to_thread(starting.__enter__)
        try:
            here = address_of(server)
            admin = await server.sign_in()
            stays = await enrolled(server, admin, "stays")
            moves = await enrolled(server, admin, "moves")
            await enrolled(server, admin, "never-came")
            async with scraping(here, other) as prometheus:
                async with connected_to(stays, here) as link:
                    await link.send_inventory(inventory("GPU-0"))
                    async with sampling(link, one_gpu("GPU-0", 10.0)):
                        async with connected_to(moves, here) as first:
                            await first.send_inventory(inventory("GPU-1"))
                            async with sampling(first, one_gpu("GPU-1", 20.0)):
                                await exposed_once(prometheus, 20.0)
                                await connected(prometheus, {here: 2, other: 0})
                        async with connected_to(moves, other) as second:
                            await second.send_inventory(inventory("GPU-1"))
                            async with sampling(second, one_gpu("GPU-1", 30.0)):
                                await exposed_once(prometheus, 30.0)
                                await connected(prometheus, {here: 1, other: 1})
                                await each_from_one(here, other)
                # No second series of the GPU that moved, in all that was ever scraped.
                ever = f"count by (UUID) (count_over_time({UTIL}[5m]))"
                assert await prometheus.values(ever, "UUID") == {("GPU-0",): 1, ("GPU-1",): 1}
                await prometheus.no_complaints()
        finally:
            await asyncio.to_thread(starting.__exit__, None, None, None)


async def exposed_once(prometheus: Asking, utilization: float) -> None:
    await prometheus.until(UTIL, {("GPU-0",): 10.0, ("GPU-1",): utilization}, "UUID")
    await prometheus.until(
        "count by (machine) (remotegpu_sample_age_seconds)",
        {("stays",): 1, ("moves",): 1},
        "machine",
    )
    await prometheus.until(ONLINE, {("stays",): 1, ("moves",): 1, ("never-came",): 0}, "machine")


async def each_from_one(*addresses: str) -> None:
    """What Prometheus would hide by giving both the same instance: nothing comes from two."""
    async with httpx.AsyncClient(trust_env=False) as http:
        texts = [
            (
                await http.get(
                    f"http://{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
                )
            ).text
            for address in addresses
        ]
    series = [
        line.rpartition(" ")[0]
        for text in texts
        for line in text.splitlines()
        if 'machine="' in line
    ]
    assert len(series) == len(set(series))
    for name in ("stays", "moves", "never-came"):
        found = [line for line in series if f'machine="{name}"' in line and "presence" in line]
        assert len(found) == 3, found


async def connected(prometheus: Asking, expected: dict[str, int]) -> None:
    await prometheus.until(
        "remotegpu_agents_connected",
        {(address,): float(count) for address, count in expected.items()},
        "instance",
    )


async def test_without_the_token_prometheus_is_told_why(embedded: Backend, tmp_path: Path) -> None:
    async with (
        serving(embedded, tmp_path / "state", metrics_token=f"another-{TOKEN}") as server,
        scraping(address_of(server)) as prometheus,
    ):
        await prometheus.until("up", {("remotegpu",): 0}, "job")
        assert await prometheus.query("remotegpu_agents_connected") == []


def test_the_deployed_configuration_is_valid() -> None:
    promtool = find_program("promtool", package="prometheus")
    checked = subprocess.run(
        [promtool, "check", "config", "--syntax-only", "deploy/prometheus.yml"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr

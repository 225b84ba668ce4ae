"""Query: the fleet with its latest samples, over HTTP."""

import asyncio
import json
import subprocess
from typing import Final

import msgspec
from redis.asyncio import Redis

from bench.fleet import DOCUMENT, samples
from bench.plan import Timing
from bench.product import Product
from bench.server import Server
from bench.viewers import LoadFailed
from bench.workspace import Workspace
from remotegpu_core.bus.batch import SNAPSHOT_LIFETIME
from remotegpu_core.bus.keys import latest_key
from remotegpu_core.bus.samples import Sample
from remotegpu_protocol.codec import encode

_CONNECTIONS: Final = 4


class Window(msgspec.Struct, frozen=True):
    """One measured stretch. Seconds of time and of processor time, bytes of answers."""

    seconds: float
    answered: int
    bytes: int
    server_cpu: float
    p50_ms: float
    p99_ms: float

    @property
    def busy(self) -> float:
        """The server's share of its core in percent: far below 100, something else had it."""
        return 100 * self.server_cpu / self.seconds

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The server's milliseconds of processor time an answer."""
        return self.server_cpu * 1e3 / max(1, self.answered)


def keep_latest(workspace: Workspace, product: Product) -> None:
    """Give every machine of the product its latest sample, as the gateway does."""
    asyncio.run(_keep_latest(workspace.redis.url, product))


async def _keep_latest(url: str, product: Product) -> None:
    async with Redis.from_url(url) as redis:
        for host, metrics in zip(product.hosts, samples(), strict=True):
            packed = Sample(1, metrics.sampled_at, encode(metrics)).pack()
            await redis.set(latest_key(host.machine_id), packed, px=SNAPSHOT_LIFETIME)


def ask(
    workspace: Workspace,
    server: Server,
    *,
    token: str | None,
    timing: Timing,
) -> list[Window]:
    """Ask for the whole fleet over and over, on a few connections."""
    body = workspace.write("query.json", json.dumps({"query": DOCUMENT}))
    command = [
        str(workspace.programs["requests"]),
        *("--port", str(server.port)),
        *("--connections", str(_CONNECTIONS)),
        *("--body", str(body)),
        *(["--token", token] if token else []),
        *timing.options,
        *("--pid", str(server.pid)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{server.name}: {done.stderr.strip()}")
    return [msgspec.json.decode(line, type=Window) for line in done.stdout.splitlines()]

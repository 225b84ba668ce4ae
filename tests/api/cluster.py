"""Several servers as processes on one PostgreSQL and one Redis, behind a real load balancer."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests.api.agent import SimulatedAgent
from tests.api.documents import ENROLL, SIGN_IN
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Json
from tests.api.program import Running, started
from tests.api.viewer import PROTOCOL, Viewer
from tests.services.haproxy import running_haproxy
from tests.services.ports import LOOPBACK, unused_port

#: Seconds for what follows a fault; a loaded machine may need most of them.
PATIENCE = 45.0


@dataclass(eq=False)
class Entry:
    """An address of the cluster: a replica's own, or the load balancer's."""

    port: int

    async def post(
        self, query: str, variables: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            return await http.post(
                f"http://{LOOPBACK}:{self.port}/graphql",
                json={"query": query, "variables": variables or {}},
                headers={"Authorization": f"Bearer {token}"} if token else {},
            )

    async def ask(
        self, query: str, variables: Mapping[str, Any] | None = None, *, token: str | None = None
    ) -> Json:
        body = (await self.post(query, variables, token=token)).json()
        assert "errors" not in body, body
        data: Json = body["data"]
        return data

    async def sign_in(self) -> str:
        answer = await self.ask(SIGN_IN, {"username": ADMIN, "password": ADMIN_PASSWORD})
        token: str = answer["signIn"]["token"]
        return token

    @asynccontextmanager
    async def viewing(self, token: str) -> AsyncIterator[Viewer]:
        async with connect(
            f"ws://{LOOPBACK}:{self.port}/graphql",
            subprotocols=[PROTOCOL],
            compression=None,
            proxy=None,
            close_timeout=1,
        ) as websocket:
            viewer = Viewer(websocket)
            try:
                await viewer.init(token)
                yield viewer
            finally:
                await viewer.stop()


@dataclass(eq=False)
class Replica(Entry):
    running: Running = field(kw_only=True)

    def stop(self) -> None:
        """In its tracks: its sockets stay open and nothing answers."""
        self.running.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.running.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        self.running.process.kill()
        await self.running.process.wait()

    async def holds_links(self) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://{LOOPBACK}:{self.port}/metrics")).text
        [line] = [x for x in text.splitlines() if x.startswith("remotegpu_agents_connected ")]
        return int(float(line.split()[1]))

    async def until_links(self, count: int) -> None:
        """Wait until it holds so many links."""
        deadline = time.monotonic() + PATIENCE
        while await self.holds_links() != count:
            assert time.monotonic() < deadline, f"never {count} links"
            await asyncio.sleep(0.2)


@dataclass(eq=False)
class Cluster:
    replicas: list[Replica]
    balancer: Entry

    async def holder(self) -> Replica:
        """The replica that holds the only agent's link, once one does."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for replica in self.replicas:
                    if replica.running.process.returncode is None:
                        with contextlib.suppress(httpx.TransportError):
                            if await replica.holds_links():
                                return replica
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running_cluster(
    database_url: str, redis_url: str, data: Path, *, size: int = 2
) -> AsyncIterator[Cluster]:
    """`size` replicas of the real program and a load balancer; all ended with the block."""
    ports = [unused_port() for _ in range(size)]
    async with contextlib.AsyncExitStack() as stack:
        balancer_port = unused_port()
        replicas = []
        for port in ports:
            environment = {
                "REMOTEGPU_DATABASE_URL": database_url,
                "REMOTEGPU_REDIS_URL": redis_url,
                "REMOTEGPU_DATA_DIR": str(data),
                "REMOTEGPU_PORT": str(port),
                "REMOTEGPU_METRICS_ALLOW": LOOPBACK,
                "REMOTEGPU_TRUSTED_PROXIES": LOOPBACK,
                "REMOTEGPU_ADMIN_PASSWORD": ADMIN_PASSWORD,
                # Agents dial the load balancer, whose port is not known before it runs.
                "REMOTEGPU_PUBLIC_URL": f"http://{LOOPBACK}:{balancer_port}",
            }
            running = await stack.enter_async_context(started("serve", environment=environment))
            replicas.append(Replica(port, running=running))
        for replica in replicas:
            await replica.running.says("Serving ")
        stack.enter_context(running_haproxy(ports, port=balancer_port))
        yield Cluster(replicas, Entry(balancer_port))


@asynccontextmanager
async def simulated_agent(
    cluster: Cluster, admin: str, name: str, data: Path
) -> AsyncIterator[str]:
    """The real agent with simulated GPUs, dialling the load balancer; yields its machine's id."""
    made = await cluster.balancer.ask(ENROLL, {"input": {"machineName": name}}, token=admin)
    token = made["createEnrollment"]["token"]
    agent = SimulatedAgent(f"http://{LOOPBACK}:{cluster.balancer.port}", data)
    await agent.enroll(token)
    await agent.start()
    found = await cluster.balancer.ask("{ machines { edges { node { id } } } }", token=admin)
    [edge] = found["machines"]["edges"]
    try:
        yield edge["node"]["id"]
    finally:
        await agent.kill()


def tracebacks(replica: Replica) -> list[str]:
    """Lines of its log that hold one: whatever happened here, nobody should have seen any."""
    return [line for line in replica.running.log.splitlines() if "Traceback" in line]

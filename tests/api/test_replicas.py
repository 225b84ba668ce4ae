"""Two replicas as one system, and what holds while parts of it are away.

The real programs, a real load balancer, PostgreSQL and Redis. Nothing of what happens here may make
the control plane call the machine LOST.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.cluster import (
    PATIENCE,
    Cluster,
    Replica,
    running_cluster,
    simulated_agent,
    tracebacks,
)
from tests.api.documents import USERS_AND_TOKENS, only
from tests.api.viewer import Operation
from tests.services.postgres import PostgresServer, running_postgres
from tests.services.redis import RedisServer

WATCH = """subscription Watch($ids: [ID!]!, $every: Float) {
  machineMetrics(machineIds: $ids, intervalSeconds: $every) { sampledAt }
}"""
CHANGES = "subscription { machineChanged { kind machine { presence } } }"
MACHINES = "{ machines { edges { node { presence latestMetrics { sampledAt } } } } }"

pytestmark = [pytest.mark.xdist_group("replicas"), pytest.mark.timeout(300)]


async def fresh(operation: Operation, count: int = 3) -> float:
    """Seconds between samples, over `count` that come from now on."""
    while operation.waiting:
        await operation.data()
    await operation.data(within=PATIENCE)
    began = time.monotonic()
    for _ in range(count):
        await operation.data(within=PATIENCE)
    return (time.monotonic() - began) / count


async def told(changes: Operation) -> list[str]:
    """What was said of the machine's presence since the last look."""
    found = []
    while changes.waiting:
        event = (await changes.data())["machineChanged"]
        if event["kind"] == "PRESENCE_CHANGED":
            found.append(event["machine"]["presence"])
    return found


async def eventually_samples(replica: Replica, token: str, machine: str) -> None:
    """A new viewer gets samples from this replica."""
    async with replica.viewing(token) as viewer:
        await fresh(await viewer.subscribe(WATCH, {"ids": [machine], "every": 0.5}), 1)


async def presence(cluster: Cluster, token: str) -> str:
    found = await cluster.balancer.ask(MACHINES, token=token)
    [edge] = found["machines"]["edges"]
    value: str = edge["node"]["presence"]
    return value


@pytest.fixture
async def cluster(
    postgres_server: PostgresServer,
    postgres_template: str,
    private_redis: RedisServer,
    tmp_path: Path,
) -> AsyncIterator[Cluster]:
    with postgres_server.database(template=postgres_template) as url:
        async with running_cluster(url, private_redis.url, tmp_path / "data") as running:
            yield running


async def test_one_system_while_redis_comes_and_goes(
    cluster: Cluster, private_redis: RedisServer, tmp_path: Path
) -> None:
    one, two = cluster.replicas
    admin = await cluster.balancer.sign_in()
    async with contextlib.AsyncExitStack() as stack:
        machine = await stack.enter_async_context(
            simulated_agent(cluster, admin, "gpu-01", tmp_path / "agent")
        )
        viewers = [await stack.enter_async_context(r.viewing(admin)) for r in (one, two)]
        changes = await viewers[0].subscribe(CHANGES)
        await changes.data()
        fast = await viewers[0].subscribe(WATCH, {"ids": [machine], "every": 0.2})
        slow = await viewers[1].subscribe(WATCH, {"ids": [machine], "every": 1.0})
        # One is without the link. Each gets what it asked for, however often the agent samples.
        assert await fresh(fast, 10) < 0.6
        assert 0.7 < await fresh(slow, 4) < 2.0
        await viewers[0].complete(fast)
        fast = await viewers[1].subscribe(WATCH, {"ids": [machine], "every": 0.2})
        assert await fresh(fast, 10) < 0.6
        assert "ONLINE" in [*await told(changes), await presence(cluster, admin)]

        for disturb in (private_redis.flush, private_redis.restart):
            disturb()
            await fresh(fast)
            await fresh(slow)
        assert await told(changes) == []

        # Away: nobody is locked out or in, and nobody is called lost.
        private_redis.stop()
        again = await two.sign_in()
        made = await one.ask(
            _only("CreateApiToken"),
            {"input": {"name": "ci", "scopes": ["READ"]}},
            token=again,
        )
        token = made["createApiToken"]
        async with two.viewing(token["token"]) as program:
            await (await program.subscribe(CHANGES)).data()
            await one.ask(_only("RevokeApiToken"), {"id": token["apiToken"]["id"]}, token=again)
            assert (await program.closed(within=3))[0] == 4403
        # Longer than silence is forgiven.
        await asyncio.sleep(13)
        assert await presence(cluster, admin) == "ONLINE"
        private_redis.start()
        await fresh(fast)
        await fresh(slow)
        assert await told(changes) == []


async def test_replicas_that_die_and_that_hang(cluster: Cluster, tmp_path: Path) -> None:
    admin = await cluster.balancer.sign_in()
    async with simulated_agent(cluster, admin, "gpu-01", tmp_path / "agent") as machine:
        holder = await cluster.holder()
        [other] = [replica for replica in cluster.replicas if replica is not holder]
        async with other.viewing(admin) as viewer:
            changes = await viewer.subscribe(CHANGES)
            await changes.data()
            metrics = await viewer.subscribe(WATCH, {"ids": [machine], "every": 0.5})
            await fresh(metrics)

            holder.stop()
            began = time.monotonic()
            await other.until_links(1)
            await fresh(metrics)
            assert time.monotonic() - began < 30
            holder.resume()
            await fresh(metrics, 6)
            # The one that woke lets go of what it held, and takes nobody's word for it.
            assert await other.holds_links() == 1
            await holder.until_links(0)
            assert "LOST" not in await told(changes)
            assert await presence(cluster, admin) == "ONLINE"
            await eventually_samples(holder, admin, machine)

        await other.kill()
        async with holder.viewing(admin) as viewer:
            changes = await viewer.subscribe(CHANGES)
            await changes.data()
            await eventually_samples(holder, admin, machine)
            assert await holder.holds_links() == 1
            assert "LOST" not in await told(changes)
        assert await presence(cluster, admin) == "ONLINE"
    for replica in cluster.replicas:
        assert tracebacks(replica) == []


async def test_postgresql_restarts(private_redis: RedisServer, tmp_path: Path) -> None:
    with running_postgres() as postgres, postgres.database() as url:
        async with running_cluster(url, private_redis.url, tmp_path / "data", size=2) as cluster:
            await _restart_postgres(cluster, postgres, tmp_path)


async def _restart_postgres(cluster: Cluster, postgres: PostgresServer, tmp_path: Path) -> None:
    one, two = cluster.replicas
    admin = await cluster.balancer.sign_in()
    async with simulated_agent(cluster, admin, "gpu-01", tmp_path / "agent") as machine:
        async with two.viewing(admin) as viewer:
            metrics = await viewer.subscribe(WATCH, {"ids": [machine], "every": 0.5})
            await fresh(metrics)
            postgres.stop()
            try:
                # Samples need no database.
                await fresh(metrics, 4)
                refused = await one.post(MACHINES, token=admin)
                assert refused.json()["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
                await asyncio.sleep(13)
            finally:
                postgres.start()
            await _until_answered(cluster, admin)
            await fresh(metrics)
        assert await presence(cluster, admin) == "ONLINE"
        await eventually_samples(one, admin, machine)
    for replica in cluster.replicas:
        assert tracebacks(replica) == []


async def _until_answered(cluster: Cluster, token: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while "errors" in (await cluster.balancer.post(MACHINES, token=token)).json():
        assert time.monotonic() < deadline, "the database came back, and nobody noticed"
        await asyncio.sleep(0.2)


def _only(operation: str) -> str:
    return only(USERS_AND_TOKENS, operation)

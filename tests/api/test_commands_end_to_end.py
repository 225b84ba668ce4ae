"""Allocations from the database to a host and back: two replicas, the real agent, and what dies.

The real programs with PostgreSQL, Redis and a load balancer between them; the host is simulated.
"""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.models import (
    Allocation,
    CleaningReceipt,
    Command,
    Gpu,
    Machine,
    Occupancy,
    Operation,
)
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.settings import Settings, load_settings
from remotegpu_core.states import AllocationState, CommandState, OperationState
from tests.api.agent import SimulatedAgent
from tests.api.cluster import Cluster, running_cluster
from tests.api.documents import ENROLL
from tests.core.patience import eventually
from tests.core.people import HOUR, make_admin
from tests.services.ports import LOOPBACK
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

#: Seconds in which commands reach a host after the replica that held its link died.
HANDOVER = 10.0

pytestmark = [pytest.mark.xdist_group("replicas"), pytest.mark.timeout(300)]


@dataclass
class World:
    """The cluster from outside, and its database from inside."""

    cluster: Cluster
    settings: Settings
    admin: Actor
    agent: SimulatedAgent
    machine: Machine
    gpus: list[Gpu]

    async def allocate(self, *indexes: int) -> uuid.UUID:
        request = AllocateRequest(
            machine_id=self.machine.id,
            gpu_ids=tuple(self.gpus[index].id for index in indexes) or None,
            ends_at=now_ms() + HOUR,
        )
        allocation, _operation = await allocate(self.admin, self.settings, request)
        return allocation.id

    async def release(self, *allocation_ids: uuid.UUID) -> None:
        """Give them back, and see that what was held came back clean."""
        for allocation_id in allocation_ids:
            await release(self.admin, allocation_id)
        for allocation_id in allocation_ids:
            await self.reached(allocation_id, AllocationState.RELEASED)
            receipt = await CleaningReceipt.get(allocation_id=allocation_id)
            assert (receipt.verified, receipt.simulated) == (True, True)
            assert receipt.items
            assert not await Occupancy.exists(allocation_id=allocation_id, closed_at=None)

    async def reached(self, allocation_id: uuid.UUID, state: AllocationState) -> None:
        await eventually(lambda: Allocation.exists(id=allocation_id, state=state))

    async def check(self) -> None:
        """Every command came to one end, and every operation with it."""
        for command in await Command.all():
            assert command.state is CommandState.SUCCEEDED, (command.kind, command.error_message)
        assert not await Operation.exclude(state=OperationState.SUCCEEDED).exists()
        assert (await Machine.get(id=self.machine.id)).command_hold is None


@pytest.fixture
async def world(
    postgres_server: PostgresServer,
    postgres_template: str,
    private_redis: RedisServer,
    tmp_path: Path,
) -> AsyncIterator[World]:
    with postgres_server.database(template=postgres_template) as url:
        async with running_cluster(url, private_redis.url, tmp_path / "data") as cluster:
            settings = load_settings(data_dir=tmp_path / "inside", database_url=url)
            database = Database(settings)
            await database.open()
            try:
                token = await cluster.balancer.sign_in()
                made = await cluster.balancer.ask(
                    ENROLL, {"input": {"machineName": "gpu-01"}}, token=token
                )
                origin = f"http://{LOOPBACK}:{cluster.balancer.port}"
                agent = SimulatedAgent(origin, tmp_path / "agent")
                await agent.enroll(made["createEnrollment"]["token"])
                await agent.start()
                try:
                    await eventually(Gpu.exists)
                    machine = await Machine.get()
                    gpus = await Gpu.all().order_by("index")
                    yield World(cluster, settings, await make_admin(), agent, machine, gpus)
                finally:
                    await agent.kill()
            finally:
                await database.close()


async def test_through_everything_that_dies(world: World, private_redis: RedisServer) -> None:
    # Undisturbed.
    whole = await world.allocate()
    await world.reached(whole, AllocationState.ACTIVE)
    await world.release(whole)

    # The agent dies while it does it, and starts again.
    struck = await world.allocate(0)
    await eventually(lambda: Command.exists(allocation_id=struck, state=CommandState.RUNNING))
    await world.agent.kill()
    assert await Command.exists(allocation_id=struck, state=CommandState.RUNNING)
    await world.agent.start()
    await world.reached(struck, AllocationState.ACTIVE)
    await world.release(struck)

    # Without Redis the outbox is looked at all the same.
    private_redis.stop()
    quiet = await world.allocate(0)
    await world.reached(quiet, AllocationState.ACTIVE)

    # The replica that holds the link dies with commands that were sent, and one that was not.
    holder = await world.cluster.holder()
    world.agent.stop()
    sent = await world.allocate(1)
    await eventually(lambda: Command.exists(allocation_id=sent, state=CommandState.SENT))
    await release(world.admin, quiet)
    await holder.kill()
    killed_at = now_ms()
    world.agent.resume()
    await eventually(lambda: Command.exists(allocation_id=sent, accepted_at__not_isnull=True))
    taken = await Command.get(allocation_id=sent)
    assert taken.accepted_at is not None
    assert taken.accepted_at - killed_at < HANDOVER * 1000
    await world.reached(sent, AllocationState.ACTIVE)
    await world.reached(quiet, AllocationState.RELEASED)

    private_redis.start()
    await world.release(sent)
    await world.check()
    for replica in world.cluster.replicas:
        assert "Traceback" not in replica.running.log

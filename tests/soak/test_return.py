"""A large fleet that comes back at once: everyone is let in, soon, and nobody is let go again."""

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from remotegpu_agent.backoff import Backoff
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Gpu, Machine
from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.limits import SUBPROTOCOL
from remotegpu_protocol.messages import Error
from remotegpu_protocol.openings import connecting
from tests.api.host import BOOT, inventory
from tests.core.patience import until
from tests.services.postgres import running_postgres
from tests.services.redis import running_redis
from tests.soak.plane import Host, Plane, running_plane
from tests.soak.wire import BINARY, CLOSE, PING, PONG, Wire, dialled, upgrade

#: Agents; the server and all of them share two cores here.
AGENTS = int(os.environ.get("SOAK_AGENTS") or 2_000)
#: Seconds in which all of them dial for the first time.
RUSH = 3.0
#: Seconds until all are in, at the latest. What a machine takes for it is printed.
PATIENCE = 150.0
#: Seconds for which they must then stay.
STAY = 12.0


def said_by(number: int) -> Inventory:
    return inventory(*(f"GPU-{number}-{index}" for index in range(2)))


async def known(hosts: Sequence[Host]) -> None:
    """Write what the hosts say, as if they had said it before: to write it for the first time
    takes ten times as long, and a fleet does not come new."""
    cards = []
    for number, host in enumerate(hosts):
        said = said_by(number)
        await Machine.filter(id=host.machine_id).update(host=msgspec.to_builtins(said.host))
        cards += [
            Gpu(
                machine_id=host.machine_id,
                uuid=card.uuid,
                index=card.index,
                model=card.model,
                memory_total=card.memory_total,
                details=msgspec.to_builtins(card),
                created_at=1,
            )
            for card in said.gpus
        ]
    await Gpu.bulk_create(cards, batch_size=500)


@dataclass
class Crowd:
    """What becomes of all agents."""

    plane: Plane
    opened: set[str] = field(default_factory=set)
    refused: int = 0
    dropped: int = 0
    failed: int = 0
    #: Seconds over which agents dial for the first time.
    arrival: float = AGENTS / 80
    #: Set while all are to dial within `RUSH` seconds, whatever they would do by themselves.
    rush: asyncio.Event = field(default_factory=asyncio.Event)
    is_down: bool = False

    async def agent(self, host: Host, number: int, random: Random) -> None:
        """One that comes back as the agent does, for as long as the test goes on."""
        backoff = Backoff(uniform=random.uniform)
        source = f"127.1.{number // 250}.{number % 250 + 1}"
        await asyncio.sleep(random.random() * self.arrival)
        while True:
            hint: float | None = None
            with contextlib.suppress(OSError, TimeoutError):
                async with dialled(self.plane.port, source=source) as wire:
                    hint = await self._link(wire, host, number, random, backoff)
            if self.is_down:
                await self.rush.wait()
                await asyncio.sleep(random.random() * RUSH)
            else:
                await asyncio.sleep(backoff.next_pause(retry_after=hint))

    async def _link(
        self, wire: Wire, host: Host, number: int, random: Random, backoff: Backoff
    ) -> float | None:
        if not await upgrade(wire, "/agent", SUBPROTOCOL, random):
            self.failed += 1
            return None
        opening = connecting(
            host.key,
            machine_id=host.machine_id,
            origin=self.plane.origin,
            agent_version="soak",
            boot_id=BOOT,
        )
        link = AgentLink(opening, now=time.monotonic())
        ticking: asyncio.Task[None] | None = None
        hint: float | None = None
        try:
            while (received := await _next(wire, link)) is not None:
                opcode, payload = received
                if opcode == PING:
                    await wire.send_frame(payload, opcode=PONG)
                elif opcode == BINARY:
                    for message in link.receive(payload, now=time.monotonic(), clock=now_ms()):
                        if isinstance(message, Error) and message.fatal:
                            hint = message.retry_after
                elif opcode == CLOSE:
                    break
                if ticking is None and link.state is AgentState.OPEN:
                    self.opened.add(host.machine_id)
                    assert link.welcome is not None
                    backoff.succeeded(spread=link.welcome.retry_spread or 0.0)
                    link.send_inventory(said_by(number), now=time.monotonic())
                    ticking = asyncio.create_task(_tick(wire, link))
                await _flush(wire, link)
        finally:
            if ticking is not None:
                ticking.cancel()
        if host.machine_id in self.opened:
            self.opened.discard(host.machine_id)
            self.dropped += 1
        else:
            self.refused += 1
        return hint

    async def all_in(self, patience: float) -> float:
        """Seconds until every agent's link is open."""
        began = time.monotonic()
        while len(self.opened) < len(self.plane.hosts):
            assert time.monotonic() - began < patience, (
                f"{len(self.opened)} of {len(self.plane.hosts)} links are open, {self.refused} were "
                f"sent away, {self.dropped} dropped, {self.failed} not upgraded"
            )
            await asyncio.sleep(0.1)
        return time.monotonic() - began


async def _next(wire: Wire, link: AgentLink) -> tuple[int, bytes] | None:
    if link.state is AgentState.OPEN:
        # Nothing may come for long.
        try:
            first, second = await wire.reader.readexactly(2)
            length = second & 127
            if length == 126:
                length = int.from_bytes(await wire.reader.readexactly(2), "big")
            return first & 15, await wire.reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            return None
    return await wire.receive_frame()


async def _tick(wire: Wire, link: AgentLink) -> None:
    while True:
        link.tick(now=time.monotonic(), clock=now_ms())
        await _flush(wire, link)
        await asyncio.sleep(1)


async def _flush(wire: Wire, link: AgentLink) -> None:
    for message in link.take_frames():
        await wire.send_frame(message, opcode=BINARY)


async def _run(plane: Plane) -> None:
    crowd = Crowd(plane)
    agents = [
        asyncio.create_task(crowd.agent(host, number, Random(number)))
        for number, host in enumerate(plane.hosts)
    ]
    try:
        first = await crowd.all_in(crowd.arrival + PATIENCE)
        assert crowd.dropped == 0
        await asyncio.sleep(STAY)
        assert crowd.dropped == 0
        crowd.is_down = True
        await asyncio.to_thread(plane.process.stop)
        await until(lambda: not crowd.opened, patience=30)
        crowd.dropped = crowd.refused = 0
        await asyncio.to_thread(plane.start_again)
        crowd.is_down = False
        crowd.rush.set()
        again = await crowd.all_in(PATIENCE)
        print(  # noqa: T201 - what a soak is for
            f"{len(agents)} agents that dial over {crowd.arrival:.0f} s are in after {first:.0f} s; after a restart, those that dial "
            f"within {RUSH:.0f} s are in after {again:.0f} s ({crowd.refused} were sent away)"
        )
        await asyncio.sleep(STAY)
        assert crowd.dropped == 0
    finally:
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_all_are_let_in() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = AGENTS + 1_000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    with (
        running_redis() as redis,
        running_postgres() as postgres,
        postgres.database() as url,
        running_plane(AGENTS, prepare=known, database_url=url, redis_url=redis.url) as plane,
    ):
        asyncio.run(_run(plane))
        assert plane.complaints() == []

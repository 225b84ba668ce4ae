"""A small fleet for a long time, with viewers who come and go: nothing grows."""

import asyncio
import json
import os
import time
from random import Random

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.limits import SUBPROTOCOL as AGENT_SUBPROTOCOL
from remotegpu_protocol.openings import connecting
from tests.api.documents import LIVE
from tests.api.host import BOOT, inventory, sample
from tests.soak.plane import Host, Plane, Reading, running_plane
from tests.soak.wire import BINARY, CLOSE, PING, PONG, Wire, dialled, upgrade

#: Seconds; `make soak` says how long.
LONG = float(os.environ.get("SOAK_SECONDS") or 600)
HOSTS = 20
VIEWERS = 40


async def _link(plane: Plane, host: Host, number: int, deadline: float) -> None:
    """An agent that samples once a second."""
    async with dialled(plane.port) as wire:
        assert await upgrade(wire, "/agent", AGENT_SUBPROTOCOL, Random(number))
        opening = connecting(
            host.key,
            machine_id=host.machine_id,
            origin=plane.origin,
            agent_version="soak",
            boot_id=BOOT,
        )
        link = AgentLink(opening, now=time.monotonic())

        async def listen() -> None:
            while (received := await wire.receive_frame()) is not None:
                await _hear(wire, link, *received)

        listening = asyncio.create_task(listen())
        while link.state is not AgentState.OPEN:
            assert not listening.done(), "the link did not open"
            await asyncio.sleep(0.01)
        link.send_inventory(
            inventory(*(f"GPU-{number}-{n}" for n in range(8))), now=time.monotonic()
        )
        while time.monotonic() < deadline:
            assert not listening.done(), "the link ended"
            link.send_metrics(sample(gpus=8))
            link.tick(now=time.monotonic(), clock=now_ms())
            await _flush(wire, link)
            await asyncio.sleep(1)
        wire.cut()
        await listening


async def _hear(wire: Wire, link: AgentLink, opcode: int, payload: bytes) -> None:
    if opcode == PING:
        await wire.send_frame(payload, opcode=PONG)
    elif opcode != CLOSE:
        link.receive(payload, now=time.monotonic(), clock=now_ms())
        await _flush(wire, link)


async def _flush(wire: Wire, link: AgentLink) -> None:
    for message in link.take_frames():
        await wire.send_frame(message, opcode=BINARY)


async def _view(plane: Plane, machines: list[str], random: Random) -> int:
    """A viewer who watches for a few seconds and leaves in one way or another; samples seen."""
    asked = {
        "query": LIVE,
        "operationName": random.choice(["MachineMetrics", "FleetPulse", "MachineChanges"]),
        "variables": {"machineIds": random.sample(machines, random.randint(1, len(machines)))},
    }
    init = {"type": "connection_init", "payload": {"token": plane.token}}
    seen = 0
    async with dialled(plane.port) as wire:
        assert await upgrade(wire, "/graphql", "graphql-transport-ws", random)
        await wire.send_frame(json.dumps(init).encode())
        subscribe = {"id": "1", "type": "subscribe", "payload": asked}
        await wire.send_frame(json.dumps(subscribe).encode())
        until = time.monotonic() + random.uniform(0.2, 5)
        while time.monotonic() < until:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + 5):
                    received = await wire.receive_frame()
            except TimeoutError:
                break
            assert received is not None, "the server closed"
            seen += b'"next"' in received[1]
        if random.random() < 0.5:
            await wire.send_frame(b'{"id":"1","type":"complete"}')
        if random.random() < 0.5:
            await wire.send_frame(b"\x03\xe8", opcode=CLOSE)
    return seen


async def _run(plane: Plane, machines: list[str], seconds: float) -> tuple[int, list[Reading]]:
    """Samples that viewers saw, and readings every few seconds."""
    deadline = time.monotonic() + seconds
    readings: list[Reading] = []

    async def view(number: int) -> int:
        random, seen = Random(number), 0
        while time.monotonic() < deadline - 6:
            seen += await _view(plane, machines, random)
        return seen

    async def read() -> None:
        while time.monotonic() < deadline:
            readings.append(await asyncio.to_thread(plane.read))
            await asyncio.sleep(seconds / 60)

    async with asyncio.TaskGroup() as group:
        for number, host in enumerate(plane.hosts):
            group.create_task(_link(plane, host, number, deadline))
        group.create_task(read())
        viewing = [group.create_task(view(number)) for number in range(VIEWERS)]
    return sum(task.result() for task in viewing), readings


@pytest.mark.soak
@pytest.mark.timeout(LONG + 150)
def test_nothing_grows() -> None:
    with running_plane(HOSTS) as plane:
        machines = plane.machine_ids()
        assert len(machines) == HOSTS
        fresh = plane.read()
        seen, readings = asyncio.run(_run(plane, machines, LONG))
        after = plane.at_rest(fresh)
        # The first third is for what is made once and kept.
        warm = readings[len(readings) // 3 : 2 * len(readings) // 3]
        late = readings[2 * len(readings) // 3 :]
        print(f"{seen} events; {fresh} at first, {after} at last; {warm[0]} .. {late[-1]}")  # noqa: T201 - the result
        assert seen > LONG
        assert _mean(late) < 1.02 * _mean(warm)
        assert plane.process.running
        assert plane.complaints() == []


def _mean(readings: list[Reading]) -> float:
    return sum(reading.resident for reading in readings) / len(readings)

"""Strangers who send the dearest documents, and what users notice of it."""

import asyncio
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from typing import Any

import httpx
import pytest

from remotegpu_core.clock import now_ms
from remotegpu_core.settings import Settings
from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.limits import SUBPROTOCOL as AGENT_SUBPROTOCOL
from remotegpu_protocol.openings import connecting
from tests.api.documents import LIVE
from tests.api.host import BOOT, inventory, sample
from tests.graphql_schema.worst_documents import WORST, read_anew
from tests.soak.plane import Host, Plane, running_plane
from tests.soak.test_fleet import _flush, _hear
from tests.soak.wire import dialled, upgrade

CONNECTIONS = 8
SECONDS = 10.0
#: Of the live stream, a second.
RATE = 5.0

#: Milliseconds at p99 of a user's request, and seconds between two events of a stream.
MOST_P99 = 150.0
MOST_GAP = 1.0

_LIMITS = ("anonymous_rate_requests", "anonymous_rate_cost", "anonymous_rate_time")


def dearest() -> str:
    """Of the known ones as strangers may send them, by processor time."""

    def cost(source: str) -> float:
        began = time.thread_time()
        for _ in range(5):
            read_anew(source, signed_in=False)
        return time.thread_time() - began

    return max((recipe.fitting(signed_in=False) for recipe in WORST.values()), key=cost)


def _attack(origin: str, source: str) -> int:
    """How many were sent. In a process of its own, so that users are not measured with it."""
    return asyncio.run(_attack_all(origin, source, time.monotonic() + SECONDS))


async def _attack_all(origin: str, source: str, ends: float) -> int:
    async def connection(number: int) -> int:
        sent = 0
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            while time.monotonic() < ends:
                # Another one to a cache each time.
                document = f"{source[:-12]}#{number:03}{sent:07}"
                await http.post(f"{origin}/graphql", json={"query": document})
                sent += 1
        return sent

    return sum(await asyncio.gather(*(connection(number) for number in range(CONNECTIONS))))


async def _ask(plane: Plane, ends: float) -> list[float]:
    """Milliseconds of a user's requests, twenty a second."""
    taken = []
    headers = {"Authorization": f"Bearer {plane.token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=30, headers=headers) as http:
        while (began := time.monotonic()) < ends:
            answer = await http.post(f"{plane.origin}/graphql", json={"query": "{ __typename }"})
            taken.append((time.monotonic() - began) * 1000)
            assert answer.json() == {"data": {"__typename": "Query"}} | (
                {"extensions": answer.json()["extensions"]} if "extensions" in answer.text else {}
            )
            await asyncio.sleep(0.05)
    return sorted(taken)


async def _sampling(plane: Plane, host: Host, is_open: asyncio.Event, ends: float) -> None:
    async with dialled(plane.port) as wire:
        assert await upgrade(wire, "/agent", AGENT_SUBPROTOCOL, Random(1))
        link = AgentLink(
            connecting(
                host.key,
                machine_id=host.machine_id,
                origin=plane.origin,
                agent_version="soak",
                boot_id=BOOT,
            ),
            now=time.monotonic(),
        )

        async def listen() -> None:
            while (received := await wire.receive_frame()) is not None:
                await _hear(wire, link, *received)

        listening = asyncio.create_task(listen())
        while link.state is not AgentState.OPEN:
            assert not listening.done(), "the link did not open"
            await asyncio.sleep(0.01)
        link.send_inventory(inventory("GPU-0"), now=time.monotonic())
        is_open.set()
        while time.monotonic() < ends:
            assert not listening.done(), "the link ended"
            link.send_metrics(sample(gpus=1))
            link.tick(now=time.monotonic(), clock=now_ms())
            await _flush(wire, link)
            await asyncio.sleep(1 / RATE)
        wire.cut()
        await listening


async def _watch(plane: Plane, machines: list[str], ends: float) -> list[float]:
    """When the events of a user's stream came."""
    came: list[float] = []
    init = {"type": "connection_init", "payload": {"token": plane.token}}
    asked = {
        "query": LIVE,
        "operationName": "MachineMetrics",
        "variables": {"machineIds": machines},
    }
    async with dialled(plane.port) as wire:
        assert await upgrade(wire, "/graphql", "graphql-transport-ws", Random(2))
        await wire.send_frame(json.dumps(init).encode())
        await wire.send_frame(
            json.dumps({"id": "1", "type": "subscribe", "payload": asked}).encode()
        )
        while time.monotonic() < ends:
            async with asyncio.timeout(30):
                received = await wire.receive_frame()
            assert received is not None, "the server closed"
            if b'"next"' in received[1]:
                came.append(time.monotonic())
    return came


async def _run(plane: Plane, machines: list[str], source: str) -> tuple[int, float, float]:
    """Documents sent, p99 in milliseconds, and the largest gap in seconds."""
    is_open = asyncio.Event()
    ends = time.monotonic() + SECONDS + 5
    async with asyncio.TaskGroup() as group:
        group.create_task(_sampling(plane, plane.hosts[0], is_open, ends + 2))
        await is_open.wait()
        watching = group.create_task(_watch(plane, machines, ends))
        await asyncio.sleep(2)
        # The other process takes two seconds to begin.
        ends_now = time.monotonic() + SECONDS + 2
        asking = group.create_task(_ask(plane, ends_now))
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            sent = await asyncio.get_running_loop().run_in_executor(
                process, _attack, plane.origin, source
            )
    taken, came = asking.result(), watching.result()
    gaps = [later - earlier for earlier, later in itertools.pairwise(came)]
    assert len(came) > SECONDS * RATE / 2
    return sent, taken[len(taken) * 99 // 100], max(gaps)


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_users_hardly_notice_them() -> None:
    source = dearest()
    usual: dict[str, Any] = {
        f"REMOTEGPU_{name.upper()}": str(Settings.model_fields[name].default) for name in _LIMITS
    }
    with running_plane(1, **usual) as plane:
        sent, p99, gap = asyncio.run(_run(plane, plane.machine_ids(), source))
        print(  # noqa: T201 - what a soak is for
            f"{sent} documents of {len(source)} bytes in {SECONDS:.0f} s over {CONNECTIONS} "
            f"connections: a user's request takes {p99:.0f} ms at p99, a stream's largest gap is "
            f"{gap:.2f} s"
        )
        assert p99 <= MOST_P99
        assert gap <= MOST_GAP
        assert plane.complaints() == []

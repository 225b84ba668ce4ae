"""A viewer that reads slowly gets the newest values and a count, never memory without bound."""

import asyncio
import contextlib
import json
import socket as sockets
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from remotegpu_api.live import socket as live_socket
from remotegpu_api.live.socket import Socket
from remotegpu_api.websocket_protocol import WebsocketProtocol
from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import MachineChange, Version
from remotegpu_core.services.changes import ChangeKind
from remotegpu_core.versions import Topic, bump
from tests.api.documents import LIVE
from tests.api.host import Host, enrolled, frame, inventory, sample
from tests.api.plane import Backend, Json, Server, serving
from tests.api.viewer import PROTOCOL, viewing
from tests.core.patience import until
from tests.services.ports import LOOPBACK

#: Events of 64 GPUs are about 12 kB, so that what the kernel buffers is soon full.
GPUS = 64


@asynccontextmanager
async def _stalled(server: Server, token: str, query: Json) -> AsyncIterator[ClientConnection]:
    """A connection with one operation, whose socket takes no more bytes than it must."""
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (LOOPBACK, server.port))
    async with connect(
        f"{server.websocket_url}/graphql",
        sock=narrow,
        subprotocols=[Subprotocol(PROTOCOL)],
        compression=None,
        max_size=None,
        max_queue=1,
        proxy=None,
        ping_interval=None,
        close_timeout=0.2,
    ) as websocket:
        await websocket.send(json.dumps({"type": "connection_init", "payload": {"token": token}}))
        assert json.loads(await websocket.recv())["type"] == "connection_ack"
        await websocket.send(json.dumps({"id": "slow", "type": "subscribe", "payload": query}))
        assert json.loads(await websocket.recv())["type"] == "next"
        websocket.transport.pause_reading()
        yield websocket


async def _flood(server: Server, host: Host, number: int) -> None:
    """Samples as fast as the bus takes them: agents may not, so past the gateway."""
    message = frame(sample(gpus=GPUS))
    at = now_ms()
    for offset in range(number):
        await server.plane.bus.publish_sample(
            uuid.UUID(host.machine_id), Sample(1, at + offset, message)
        )
        await asyncio.sleep(0.001)


def _socket_of(server: Server) -> Socket:
    return next(s for s in server.hub.sockets if "slow" in s.operations)


def _metrics(host: Host) -> Json:
    return {
        "query": LIVE,
        "operationName": "MachineMetrics",
        "variables": {"machineIds": [host.id]},
    }


async def _events(websocket: ClientConnection) -> list[Json]:
    """Everything that still comes within a second of silence."""
    found: list[Json] = []
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(1):
                found.append(json.loads(await websocket.recv()))
    return found


def _times(events: Iterable[Json]) -> list[str]:
    return [event["payload"]["data"]["machineMetrics"]["sampledAt"] for event in events]


@pytest.fixture(params=("frames", "plain ASGI"))
async def either_server(
    request: pytest.FixtureRequest, embedded: Backend, tmp_path: Path
) -> AsyncIterator[Server]:
    """One that writes frames itself, and one that does not."""
    frame_path = request.param == "frames"
    async with serving(embedded, tmp_path / "state", frame_path=frame_path) as started:
        yield started


async def test_samples_are_coalesced_and_counted(either_server: Server) -> None:
    server = either_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with _stalled(server, admin, _metrics(host)) as websocket, viewing(server, admin) as fast:
        slow = _socket_of(server)
        brisk = await fast.subscribe(LIVE, {"machineIds": [host.id]}, operation="MachineMetrics")
        await brisk.data()
        # As many as it takes until the kernel's buffers are full: on a busy machine the bus, too,
        # sends on the newest only.
        for _ in range(20):
            await _flood(server, host, 600)
            if slow.outbox:
                break
        await _flood(server, host, 20)
        # One value waits, however many came.
        assert len(slow.outbox) <= 1
        websocket.transport.resume_reading()
        events = await _events(websocket)
        dropped = [event["payload"].get("extensions", {}).get("dropped", 0) for event in events]
        assert sum(dropped) > 0
        # Nothing is lost from the account: what came and what is said to be missing are all.
        (group,) = server.hub.groups.values()
        assert len(events) + sum(dropped) == group.executions - 1
        assert _times(events) == sorted(_times(events))
        # The newest arrived, and whoever reads has seen no gap because of others.
        seen = [await brisk.next() for _ in range(brisk.waiting)]
        assert seen[-1]["data"] == events[-1]["payload"]["data"]
        assert all("extensions" not in payload for payload in seen)
        assert len(seen) == group.executions - 1


async def test_a_reader_that_takes_nothing_is_let_go(
    either_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = either_server
    monkeypatch.setattr(live_socket, "PROGRESS_TIMEOUT", 0.3)
    monkeypatch.setattr(live_socket, "CLOSE_TIMEOUT", 0.3)
    made: list[WebsocketProtocol] = []
    original = WebsocketProtocol.__init__

    def noting(self: WebsocketProtocol, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        self.close_timeout = 0.3
        made.append(self)

    monkeypatch.setattr(WebsocketProtocol, "__init__", noting)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with _stalled(server, admin, _metrics(host)):
        (protocol,) = (p for p in made if p.scope["path"] == "/graphql")
        flood = asyncio.create_task(_flood(server, host, 1500))
        await until(lambda: not server.hub.sockets)
        # Neither the application nor the server keeps anything of it.
        assert server.hub.groups == {}
        await until(lambda: protocol.disconnected)
        await flood


async def test_a_stalled_reader_does_not_hold_up_the_end_of_its_rights(server: Server) -> None:
    admin, stalled = await server.sign_in(), await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with (
        _stalled(server, stalled, _metrics(host)),
        viewing(server, stalled) as bystander,
    ):
        for _ in range(20):
            await _flood(server, host, 600)
            if _socket_of(server).outbox:
                break
        assert len(_socket_of(server).outbox) == 1
        began = time.monotonic()
        await server.post("mutation { signOut { user { id } } }", token=stalled)
        assert (await bystander.closed(within=2))[0] == 4403
        assert time.monotonic() - began < 2
        await until(lambda: not server.hub.groups)


async def _record(machine_id: str, number: int) -> None:
    """Changes, as `record_change` writes them, at once."""
    async with transaction():
        last = await bump(Topic.MACHINE_CHANGES) + number
        await Version.filter(name=Topic.MACHINE_CHANGES).update(value=last)
        await MachineChange.bulk_create(
            MachineChange(
                sequence=last - number + offset,
                machine_id=uuid.UUID(machine_id),
                kind=ChangeKind.HEALTH_CHANGED,
                at=now_ms(),
            )
            for offset in range(number + 1)
        )


async def test_what_may_not_be_dropped_waits_at_its_source(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    specs = "specs { hostname cpuModel operatingSystem kernel driverVersion cudaVersion }"
    aliases = " ".join(f"f{number}: {specs}" for number in range(15))
    document = f"subscription {{ machineChanged {{ cursor machine {{ {aliases} }} }} }}"
    # About 24 kB an event.
    said = inventory()
    names = ("hostname", "cpu_model", "operating_system", "kernel", "driver_version")
    wordy = replace(said, host=replace(said.host, **dict.fromkeys(names, "x" * 255)))
    async with host.connected() as link:
        await link.send_inventory(wordy)
    async with _stalled(server, admin, {"query": document}) as websocket:
        slow = _socket_of(server)
        await _record(host.machine_id, 999)
        most = 0
        for _ in range(150):
            most = max(most, len(slow.outbox))
            await asyncio.sleep(0.02)
        assert 0 < most <= 256
        websocket.transport.resume_reading()
        cursors: list[int] = []
        async with asyncio.timeout(60):
            while len(cursors) < 1000:
                event = json.loads(await websocket.recv())
                assert event["type"] == "next"
                cursors.append(int(event["payload"]["data"]["machineChanged"]["cursor"]))
        assert cursors == list(range(cursors[0], cursors[0] + len(cursors)))

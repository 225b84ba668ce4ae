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
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_api import websocket_protocol
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

#: Events of 64 GPUs are about 12 kB, so that what is buffered on the way is soon full.
GPUS = 64
#: Bytes that each kernel buffer may hold, about: by themselves they grow to megabytes.
NARROW = 4096


@pytest.fixture(autouse=True)
def protocols(monkeypatch: pytest.MonkeyPatch) -> list[WebsocketProtocol]:
    """The server's ends of the websockets, whose kernel buffers stay small."""
    made: list[WebsocketProtocol] = []
    original = WebsocketProtocol.connection_made

    def narrowed(self: WebsocketProtocol, transport: asyncio.BaseTransport) -> None:
        original(self, transport)
        # None where the server tries its frames out.
        if (socket := transport.get_extra_info("socket")) is not None:
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, NARROW)
            made.append(self)

    monkeypatch.setattr(WebsocketProtocol, "connection_made", narrowed)
    return made


@asynccontextmanager
async def _stalled(server: Server, token: str, query: Json) -> AsyncIterator[ClientConnection]:
    """A connection with one operation, whose socket takes no more bytes than it must."""
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, NARROW)
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
    """Everything that still comes, until a second of silence or the end."""
    found: list[Json] = []
    with contextlib.suppress(TimeoutError, ConnectionClosed):
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
        await _stuck(server, host)
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


async def _stuck(server: Server, host: Host) -> None:
    """Send until the transport takes no more, so that a value waits."""
    slow = _socket_of(server)
    async with asyncio.timeout(60):
        # A short time-out may have closed it before this looks.
        while not slow.outbox and slow in server.hub.sockets:
            await _flood(server, host, 20)


async def test_a_reader_that_reads_again_is_told_why(
    either_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = either_server
    monkeypatch.setattr(live_socket, "PROGRESS_TIMEOUT", 0.3)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with _stalled(server, admin, _metrics(host)) as websocket:
        await _stuck(server, host)
        await until(lambda: not server.hub.sockets)
        # Its place is taken until it is gone, for so long something of it is kept.
        assert server.hub.of_users.taken == 1
        websocket.transport.resume_reading()
        await _events(websocket)
        assert websocket.close_code == 4429
        assert "30 seconds" in (websocket.close_reason or "")
        await until(lambda: server.hub.of_users.taken == 0)


async def test_a_reader_that_never_reads_again_is_cut_off(
    either_server: Server,
    protocols: list[WebsocketProtocol],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = either_server
    monkeypatch.setattr(live_socket, "PROGRESS_TIMEOUT", 0.3)
    monkeypatch.setattr(websocket_protocol, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(websocket_protocol, "SLOW_CLOSE_TIMEOUT", 0.4)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with _stalled(server, admin, _metrics(host)):
        await _stuck(server, host)
        await until(lambda: not server.hub.sockets)
        # Neither the application nor the server keeps anything of it.
        assert server.hub.groups == {}
        await until(lambda: protocols[-1].disconnected)
        await until(lambda: server.hub.of_users.taken == 0)


async def test_one_that_hangs_up_and_reads_nothing_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_protocol, "CLOSE_TIMEOUT", 0.3)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    for bye in (b"\x88\x80\x00\x00\x00\x00", None):
        async with _stalled(server, admin, _metrics(host)) as websocket:
            await _stuck(server, host)
            # A close frame, masked with zeros, or the end of what it sends.
            websocket.transport.write(bye) if bye else websocket.transport.write_eof()
            await until(lambda: server.hub.of_users.taken == 0)


async def test_an_unanswered_ping_ends_with_a_code_to_come_back_after(
    server: Server, protocols: list[WebsocketProtocol]
) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    for is_stuck, code in ((False, 1013), (True, 4429)):
        async with _stalled(server, admin, _metrics(host)) as websocket:
            if is_stuck:
                await _stuck(server, host)
            # What uvicorn's timer does, twenty seconds after a ping.
            protocols[-1].keepalive_timeout()
            websocket.transport.resume_reading()
            await _events(websocket)
            assert websocket.close_code == code


async def test_pings_of_a_reader_that_reads_nothing_fill_no_memory(
    server: Server, protocols: list[WebsocketProtocol]
) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with _stalled(server, admin, _metrics(host)) as websocket:
        await _stuck(server, host)
        protocol = protocols[-1]
        before = protocol.transport.get_write_buffer_size()
        for number in range(2_000):
            websocket.protocol.send_ping(b"%06d" % number)
        websocket.transport.write(b"".join(websocket.protocol.data_to_send()))
        await until(lambda: b"001999" in (protocol._late_pong or b""))
        assert protocol.transport.get_write_buffer_size() == before
        websocket.transport.resume_reading()
        # The newest is answered when there is room.
        await _events(websocket)
        assert protocol._late_pong is None


async def test_a_stalled_reader_does_not_hold_up_the_end_of_its_rights(server: Server) -> None:
    admin, stalled = await server.sign_in(), await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await _flood(server, host, 1)
    async with (
        _stalled(server, stalled, _metrics(host)),
        viewing(server, stalled) as bystander,
    ):
        await _stuck(server, host)
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
        await _record(host.machine_id, 299)
        # As many wait as may, and then no more are read.
        await until(lambda: len(slow.outbox) >= 128)
        await asyncio.sleep(0.1)
        assert len(slow.outbox) <= 256
        websocket.transport.resume_reading()
        cursors: list[int] = []
        async with asyncio.timeout(60):
            while len(cursors) < 300:
                event = json.loads(await websocket.recv())
                assert event["type"] == "next"
                cursors.append(int(event["payload"]["data"]["machineChanged"]["cursor"]))
        assert cursors == list(range(cursors[0], cursors[0] + len(cursors)))

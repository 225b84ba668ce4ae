"""ONLINE, UNREACHABLE, LOST and back: as late as promised, and no earlier."""

import asyncio
import contextlib
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection

from remotegpu_api.gateway import presence_duty
from remotegpu_core.models import Machine
from remotegpu_core.services import presence
from remotegpu_core.states import Presence
from remotegpu_protocol import server_link
from tests.api.documents import LIVE
from tests.api.host import Host, Link, enrolled, inventory, sample
from tests.api.plane import Backend, Json, Server, serving
from tests.api.viewer import Operation, viewing
from tests.core.patience import until

UNREACHABLE_AFTER = 1.0
LOST_AFTER = 3.0


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a twelfth and a fortieth of the real ones."""
    monkeypatch.setattr(presence_duty, "UNREACHABLE_AFTER", UNREACHABLE_AFTER)
    monkeypatch.setattr(server_link, "UNREACHABLE_AFTER", UNREACHABLE_AFTER)
    monkeypatch.setattr(presence, "LOST_AFTER", LOST_AFTER)
    monkeypatch.setattr(presence_duty, "_SWEEP", 0.5)


@pytest.fixture
async def hasty(haste: None, embedded: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(embedded, tmp_path / "state") as server:
        yield server


@pytest.fixture
async def any_hasty(haste: None, backend: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(backend, tmp_path / "state") as server:
        yield server


async def _watch(server: Server, viewer_operation: Operation) -> tuple[str, float]:
    """The next presence that is told, and when."""
    while True:
        change: Json = (await viewer_operation.data(within=25))["machineChanged"]
        if change["kind"] == "PRESENCE_CHANGED":
            return change["machine"]["presence"], time.monotonic()


def _stop_reading(websocket: ClientConnection) -> None:
    websocket.transport.pause_reading()


async def test_silence_is_noticed_and_forgiven(any_hasty: Server) -> None:
    server = any_hasty
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        changes = await viewer.subscribe(LIVE, operation="MachineChanges")
        await changes.data()
        async with host.connected() as link:
            assert (await _watch(server, changes))[0] == "ONLINE"
            await link.send_inventory(inventory("GPU-0"))
            # It hangs: TCP is there, and nothing is said.
            link.frozen = True
            silent_since = time.monotonic()
            told, at = await _watch(server, changes)
            assert told == "UNREACHABLE"
            assert UNREACHABLE_AFTER - 0.2 <= at - silent_since <= UNREACHABLE_AFTER + 3
            assert (await link.closed())[0] == 1001
        told, at = await _watch(server, changes)
        assert told == "LOST"
        assert at - silent_since >= LOST_AFTER - 0.2
        fleet = await server.ask("{ fleet { machines { online unreachable lost } } }", token=admin)
        assert fleet["fleet"]["machines"] == {"online": 0, "unreachable": 0, "lost": 1}
        async with host.connected() as link:
            assert (await _watch(server, changes))[0] == "ONLINE"
            assert link.epoch == 2


async def test_a_short_break_is_not_told(hasty: Server) -> None:
    server = hasty
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        async with host.connected():
            pass
        changes = await viewer.subscribe(LIVE, operation="MachineChanges")
        await changes.data()
        for _ in range(4):
            async with host.connected() as link:
                await link.vanish()
            await asyncio.sleep(0.2)
        async with host.connected() as link:
            beats = asyncio.create_task(_beats(link))
            await changes.silent(2.5)
            beats.cancel()
        assert (await Machine.get()).presence is Presence.ONLINE


async def _beats(link: Link) -> None:
    for sequence in range(1, 100):
        await link.heartbeat(1000 + sequence, within=5)
        await asyncio.sleep(0.3)


async def test_a_host_that_reads_nothing_any_more_is_silent_too(
    hasty: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remotegpu_api.gateway.connection.CLOSE_TIMEOUT", 0.3)
    monkeypatch.setattr(presence, "LOST_AFTER", 120.0)
    server = hasty
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        connection = server.gateway.links[uuid.UUID(host.machine_id)]
        _stop_reading(link.websocket)
        link.frozen = True
        # More than the kernels take: from here on the server can send nothing.
        for _ in range(4000):
            connection.link.reject("TEST", "x" * 2000)
        blocked = asyncio.create_task(connection.flush())
        await until(lambda: connection not in server.gateway._sockets)
        await _until_presence(host, Presence.UNREACHABLE)
        link.websocket.transport.abort()
        await asyncio.gather(blocked, return_exceptions=True)


async def _until_presence(host: Host, wanted: Presence) -> None:
    deadline = time.monotonic() + 10
    while (await Machine.get(id=host.machine_id)).presence is not wanted:
        assert time.monotonic() < deadline, f"never {wanted}"
        await asyncio.sleep(0.05)


async def test_the_promise_is_kept_with_the_real_limits(server: Server) -> None:
    """Seen within 15 seconds of the last word, and not before 12."""
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        changes = await viewer.subscribe(LIVE, operation="MachineChanges")
        await changes.data()
        async with host.connected() as link:
            await _watch(server, changes)
            await link.heartbeat(500, within=5)
            last_word = time.monotonic()
            link.frozen = True
            told, at = await _watch(server, changes)
            assert told == "UNREACHABLE"
            assert 11.9 <= at - last_word <= 15.0


async def test_an_orderly_stop_makes_nobody_unreachable_at_once(
    embedded: Backend, tmp_path: Path
) -> None:
    async with serving(embedded, tmp_path / "state") as server:
        admin = await server.sign_in()
        host = await enrolled(server, admin, "gpu-01")
        async with host.connected() as link:
            port = server.port
            await link.send_inventory(inventory("GPU-0"))
            host_key = host
    async with serving(embedded, tmp_path / "state", port=port) as server:
        admin = await server.sign_in()
        assert (await Machine.get()).presence is Presence.ONLINE
        host_key.server = server
        async with host_key.connected() as link:
            assert link.epoch == 2


async def test_everybody_is_told_when_the_server_goes(embedded: Backend, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as outlive:
        async with serving(embedded, tmp_path / "state") as server:
            admin = await server.sign_in()
            host = await enrolled(server, admin, "gpu-01")
            link = await outlive.enter_async_context(host.connected())
            viewer = await outlive.enter_async_context(viewing(server, admin))
            await (await viewer.subscribe(LIVE, operation="FleetPulse")).data()
            began = time.monotonic()
        assert time.monotonic() - began < 5
        # By their codes for it both kinds of client come back.
        assert await link.closed() == (1001, "The control plane ends: connect again.")
        assert await viewer.closed() == (1012, "The server ends: connect again.")


async def test_heartbeats_are_answered_while_the_database_is_busy(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link, viewing(server, admin) as viewer:
        live = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation="MachineMetrics")
        await until(lambda: server.plane.samples.watched)
        await link.send_inventory(inventory("GPU-0", "GPU-1"))
        other = sqlite3.connect(
            server.plane.settings.sqlite_path, isolation_level=None, check_same_thread=False
        )
        try:
            # On a thread: a transaction of the server's may be open, which this loop has to end.
            await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
            for number in range(1, 6):
                await link.heartbeat(100 + number, within=1)
                await link.send(sample(utilization=number))
                event = (await live.data(within=1))["machineMetrics"]
                assert event["gpus"][0]["utilization"] == number
                await asyncio.sleep(0.2)
            # What has to be written waits, and is written.
            written = inventory("GPU-0", revision=2, hostname="written")
            waiting = asyncio.create_task(link.send_inventory(written))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            other.execute("COMMIT")
            await waiting
        finally:
            other.close()
    assert (await Machine.get()).host["hostname"] == "written"

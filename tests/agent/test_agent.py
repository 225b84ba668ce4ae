"""The agent against a real websocket server that drives the control plane's end."""

import asyncio
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from remotegpu_agent.agent import Agent, AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.policy import DEFAULT_PATH
from remotegpu_agent.identity import HostKey, Identity
from remotegpu_agent.running import make_desk
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.simulated import SimulatedSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import LinkState, StatusFile, load_status
from remotegpu_protocol.errors import Superseded
from remotegpu_protocol.inventory import DriverState, GpuHealth, Inventory
from remotegpu_protocol.messages import Heartbeat, Hello
from remotegpu_protocol.metrics import Metrics
from tests.agent.control_plane import ControlPlane, background

QUICK = AgentTimes(
    pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.2, permanent=0.5), inventory_check=0.2
)


def make_agent(
    identity: Identity,
    directory: StateDirectory,
    *,
    source: SimulatedSource | None = None,
    times: AgentTimes = QUICK,
) -> Agent:
    source = source or SimulatedSource(seed=1, count=2)
    return Agent(
        identity,
        source,
        StatusFile(directory),
        make_desk(directory, SourceSettings(SourceKind.SIMULATED), DEFAULT_PATH, source),
        times=times,
    )


async def test_it_says_hello_then_what_it_is_and_what_it_does(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
        metrics = await plane.until(lambda: peer.of(Metrics))
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        await plane.until(lambda: peer.of(Heartbeat))
    hello = peer.of(Hello)[0]
    assert (hello.machine_id, hello.origin) == ("machine-1", plane.origin)
    assert inventory.revision == 1
    assert inventory.host.driver_state is DriverState.SIMULATED
    assert [gpu.index for gpu in inventory.gpus] == [0, 1]
    assert {gpu.uuid for gpu in inventory.gpus} == {gpu.uuid for gpu in metrics[0].gpus}
    assert abs(metrics[0].sampled_at - time.time() * 1000) < 60_000
    assert metrics[0].host.memory_total


async def test_the_first_sample_comes_right_after_the_welcome(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.sample_interval = 3600.0
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
        await plane.until(lambda: peer.of(Metrics))
    assert len(peer.of(Metrics)) == 1


async def test_being_told_to_stop_closes_the_link_with_1001(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
    await plane.until(peer.closed.is_set)
    assert peer.websocket.close_code == 1001
    status = load_status(directory)
    assert status is not None
    assert status.link is LinkState.STOPPED


async def test_an_inventory_is_sent_again_when_it_changes_and_only_then(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    source = AilingSource(seed=1, count=2)
    async with background(make_agent(identity, directory, source=source).run()):
        peer = await plane.peer()
        await plane.until(lambda: peer.of(Inventory))
        # Several checks find nothing new.
        await asyncio.sleep(1.0)
        assert len(peer.of(Inventory)) == 1
        source.ail()
        second = (await plane.until(lambda: peer.of(Inventory)[1:]))[0]
    assert second.revision == 2
    assert [gpu.health for gpu in second.gpus] == [GpuHealth.UNHEALTHY, GpuHealth.HEALTHY]


async def test_every_connection_gets_the_inventory_anew(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    async with background(make_agent(identity, directory).run()):
        first = await plane.peer()
        await plane.until(lambda: first.of(Inventory))
        first.websocket.transport.abort()
        second = await plane.peer(2)
        await plane.until(lambda: second.of(Inventory))
    assert second.of(Inventory)[0].revision == 1


async def test_a_silent_control_plane_is_left_within_the_time(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.heartbeat_interval = 0.1
    plane.link_silence = 0.5
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
        await plane.until(lambda: peer.of(Heartbeat))
        plane.silent = True
        began = time.monotonic()
        await plane.until(peer.closed.is_set)
        assert 0.3 < time.monotonic() - began < 5
        assert peer.websocket.close_code == 1001
        plane.silent = False
        await plane.peer(2)
    status = load_status(directory)
    assert status is not None
    assert "silent for 0.5 s" in (status.last_error or "")


async def test_a_peer_that_reads_nothing_is_left_too(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    """The network swallows nothing and answers nothing: buffers fill, and the tick goes on."""
    plane.heartbeat_interval = 0.1
    plane.link_silence = 0.5
    source = SimulatedSource(seed=1, count=64)
    async with background(make_agent(identity, directory, source=source).run()):
        peer = await plane.peer()
        await peer.watch(interval=0.1, lease=60)
        peer.websocket.transport.pause_reading()
        await plane.peer(2)
        peer.websocket.transport.abort()


async def test_a_watch_rate_holds_for_its_lease(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.sample_interval = 3600.0
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
        await plane.until(lambda: peer.of(Metrics))
        await peer.watch(interval=0.1, lease=60)
        await plane.until(lambda: len(peer.of(Metrics)) > 10)
        await peer.watch(interval=0.1, lease=0)
        await asyncio.sleep(0.3)
        count = len(peer.of(Metrics))
        await asyncio.sleep(0.5)
        assert len(peer.of(Metrics)) == count


async def test_a_refused_signature_is_said_and_not_hammered(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.machines["machine-1"] = HostKey.generate().public_key
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            await plane.until(lambda: len(plane.peers) >= 2)
    # The pause after a permanent refusal, 0.5 s here, and not one of the short ones.
    assert plane.peers[1].opened_at - plane.peers[0].opened_at > 0.35
    ended = next(line for line in logs if line["event"] == "link ended")
    assert ended["code"] == 4401
    assert "signature does not fit" in ended["reason"]
    assert "enroll --replace" in ended["todo"]


async def test_a_wrong_origin_is_explained(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.origins = ["https://gpu.example.org"]
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            await plane.until(lambda: any(line["event"] == "link ended" for line in logs))
    ended = next(line for line in logs if line["event"] == "link ended")
    assert ended["code"] == 4401
    assert "https://gpu.example.org" in ended["reason"]
    assert plane.origin in ended["reason"]


async def test_a_revoked_host_says_what_to_do(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    plane.revoked = True
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            await plane.until(lambda: any(line["event"] == "link ended" for line in logs))
    ended = next(line for line in logs if line["event"] == "link ended")
    assert ended["code"] == 4403
    assert "get a new token" in ended["todo"]


async def test_a_superseded_link_comes_back(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            await (await plane.peer()).end(Superseded("A newer connection took over."))
            await plane.peer(2)
    ended = next(line for line in logs if line["event"] == "link ended")
    assert ended["code"] == 4409
    assert "two hosts" in ended["todo"]


async def test_what_the_control_plane_says_is_logged(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            peer = await plane.peer()
            peer.link.reject("CLOCK_SKEW", "This host's clock is 3600 s behind.")
            await peer.flush()
            await plane.until(lambda: any(line["event"] == "control plane says" for line in logs))
    said = next(line for line in logs if line["event"] == "control plane says")
    assert said["message"] == "This host's clock is 3600 s behind."


async def test_a_control_plane_that_is_away_is_one_line_and_no_end(
    plane: ControlPlane, directory: StateDirectory, free_port: int
) -> None:
    away = Identity(
        key=HostKey.generate(),
        machine_id="machine-1",
        machine_name="node-1",
        origin=f"http://127.0.0.1:{free_port}",
    )
    with capture_logs() as logs:
        async with background(make_agent(away, directory).run()):
            await asyncio.sleep(1.0)
    lines = [line for line in logs if line["event"] == "not connected"]
    assert len(lines) == 1
    assert "Connection refused" in lines[0]["reason"]


async def test_no_secret_is_written_but_to_the_identity(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        async with background(make_agent(identity, directory).run()):
            peer = await plane.peer()
            await plane.until(lambda: peer.of(Metrics))
    secret = identity.key.secret()
    told = repr(logs).encode() + everything_below(tmp_path, but="identity.json")
    assert secret not in told
    assert secret.hex().encode() not in told
    assert repr(secret).encode() not in told


@pytest.mark.parametrize("interval", [0.0, 0.001])
async def test_no_watcher_gets_more_than_ten_samples_a_second(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, interval: float
) -> None:
    async with background(make_agent(identity, directory).run()):
        peer = await plane.peer()
        await peer.watch(interval=interval, lease=60)
        before = len(peer.of(Metrics))
        await asyncio.sleep(1.0)
        assert len(peer.of(Metrics)) - before <= 13


def everything_below(directory: Path, *, but: str) -> bytes:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != but)
    return b"".join(path.read_bytes() for path in files)


class AilingSource(SimulatedSource):
    """A source whose first card can be made ill."""

    def ail(self) -> None:
        first = self._gpus[0]
        first.inventory = type(first.inventory)(
            index=0,
            uuid=first.inventory.uuid,
            model=first.inventory.model,
            health=GpuHealth.UNHEALTHY,
            health_reason="Unplugged by a test.",
        )
        self.changed.set()

"""The program as its user meets it: a process with arguments, variables, signals and exit codes."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from remotegpu_agent.identity import Identity
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.inventory import DriverState, Inventory
from remotegpu_protocol.messages import Enroll
from remotegpu_protocol.metrics import Metrics
from tests.agent.authority import Authority
from tests.agent.control_plane import ControlPlane, running_control_plane
from tests.agent.program import call, started
from tests.agent.stub import StubDriver

TOKEN = "rgpu_enroll_planted-secret-4711"

MIB = 1024 * 1024


async def test_help_is_for_strangers() -> None:
    top = await call("--help")
    assert top.code == 0
    for word in ("enroll", "run", "status", "outbound"):
        assert word in top.out
    for name in ("enroll", "run", "status"):
        shown = await call(name, "--help")
        assert shown.code == 0
        assert "REMOTEGPU_AGENT_STATE_DIR" in shown.out
    assert (await call("--version")).out.startswith("remotegpu-agent ")


async def test_from_a_token_to_a_connected_host(plane: ControlPlane, tmp_path: Path) -> None:
    plane.tokens[TOKEN] = None
    state = ("--state-dir", str(tmp_path / "state"))
    enrolled = await call("enroll", "--server", plane.origin, "--token", "-", *state, stdin=TOKEN)
    assert enrolled.code == 0, enrolled.err
    assert "as machine node-1" in enrolled.out
    assert f"Next: remotegpu-agent run --state-dir {tmp_path / 'state'}" in enrolled.out

    assert (await call("status", *state)).code == 1
    async with started("run", "--gpu-source", "simulated", *state) as agent:
        peer = await plane.peer(2)
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        await plane.until(lambda: peer.of(Metrics))
        assert inventory.host.hostname == "node-1"
        assert len(inventory.gpus) == 8
        await asyncio.sleep(1.2)

        status = await call("status", "--json", *state)
        assert status.code == 0, status.err
        shown = json.loads(status.out)
        assert shown["connected"] is True
        assert shown["seconds_since_sample"] is not None
        assert "link          connected" in (await call("status", *state)).out
        assert "Another remotegpu-agent" in (await call("run", *state)).one_line

        agent.send_signal(signal.SIGTERM)
        began = time.monotonic()
        out, err = await agent.communicate()
        assert time.monotonic() - began < 2.0
    assert agent.returncode == 0
    assert out == b""
    assert peer.websocket.close_code == 1001
    assert TOKEN not in err.decode()
    assert (await call("status", *state)).code == 1


async def test_a_simulated_host_enrols_as_what_it_runs_as(
    plane: ControlPlane, tmp_path: Path
) -> None:
    plane.tokens[TOKEN] = None
    environment = {
        "REMOTEGPU_AGENT_STATE_DIR": str(tmp_path / "state"),
        "REMOTEGPU_AGENT_SERVER": plane.origin,
        "REMOTEGPU_AGENT_GPU_SOURCE": "simulated",
        "REMOTEGPU_AGENT_SIMULATED_GPUS": "3",
        "REMOTEGPU_AGENT_SIMULATED_MODEL": "NVIDIA A100-SXM4-80GB",
        "REMOTEGPU_ENROLL_TOKEN": TOKEN,
    }
    assert (await call("enroll", environment=environment)).code == 0
    async with started("run", environment=environment) as agent:
        peer = await plane.peer(2)
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        agent.send_signal(signal.SIGINT)
        await agent.communicate()
    assert agent.returncode == 0
    assert {gpu.model for gpu in inventory.gpus} == {"NVIDIA A100-SXM4-80GB"}
    assert len(inventory.gpus) == 3
    assert inventory.host.driver_state is DriverState.SIMULATED
    assert inventory.host.hardware_uuid == plane.peers[0].of(Enroll)[0].hardware_uuid


async def test_the_driver_is_read_by_a_child_that_ends_with_the_agent(
    plane: ControlPlane, identity: Identity, directory: StateDirectory, driver: StubDriver
) -> None:
    state = ("--state-dir", str(directory.path))
    async with started("run", *state, environment=driver.environment) as agent:
        peer = await plane.peer()
        inventory = (await plane.until(lambda: peer.of(Inventory)))[0]
        assert inventory.host.driver_state is DriverState.READY
        await plane.until(lambda: [sample for sample in peer.of(Metrics) if sample.gpus])
        children = psutil.Process(agent.pid).children(recursive=True)
        assert len(children) == 1
        # The driver hangs, and still the agent ends in time and leaves nothing behind.
        driver.tell({"nvmlDeviceGetFanSpeed.hang": 1})
        await asyncio.sleep(0.5)
        agent.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, err = await agent.communicate()
        assert time.monotonic() - began < 2.0
    assert agent.returncode == 0, err
    assert not psutil.pid_exists(children[0].pid)


async def test_an_agent_that_cannot_connect_ends_in_time_too(
    directory: StateDirectory, identity: Identity, plane: ControlPlane
) -> None:
    plane.silent = True
    async with started("run", "--state-dir", str(directory.path)) as agent:
        await plane.until(lambda: plane.peers)
        agent.send_signal(signal.SIGTERM)
        began = time.monotonic()
        await agent.communicate()
        assert time.monotonic() - began < 2.0
    assert agent.returncode == 0


@pytest.mark.parametrize("source", ["simulated", "nvml"])
async def test_memory_stays_far_below_what_a_host_would_notice(
    plane: ControlPlane,
    identity: Identity,
    directory: StateDirectory,
    driver: StubDriver,
    source: str,
) -> None:
    """The promise is 70 MiB; the bound here leaves room for other Pythons and libraries."""
    arguments = ("--state-dir", str(directory.path), "--gpu-source", source)
    async with started("run", *arguments, environment=driver.environment) as agent:
        peer = await plane.peer()
        await plane.until(lambda: len([s for s in peer.of(Metrics) if s.gpus]) > 3)
        parent = psutil.Process(agent.pid)
        processes = [parent, *parent.children(recursive=True)]
        assert len(processes) == (1 if source == "simulated" else 2)
        assert sum(process.memory_info().rss for process in processes) < 100 * MIB
        agent.terminate()
        await agent.communicate()


async def test_json_logs_are_json_and_hold_no_secret(
    plane: ControlPlane, identity: Identity, directory: StateDirectory
) -> None:
    arguments = ("--state-dir", str(directory.path), "--gpu-source", "none")
    async with started("run", *arguments, "--log-format", "json", "--log-level", "debug") as agent:
        await plane.peer()
        agent.terminate()
        _, err = await agent.communicate()
    events = [json.loads(line)["event"] for line in err.decode().splitlines()]
    assert events[0] == "starting"
    assert "connected" in events
    assert events[-1] == "stopped"
    assert identity.key.secret().hex() not in err.decode()


async def test_a_token_never_shows_up_again(plane: ControlPlane, tmp_path: Path) -> None:
    state = tmp_path / "state"
    arguments = ("enroll", "--server", plane.origin, "--token", TOKEN, "--state-dir", str(state))
    result = await call(*arguments)
    assert "refused the enrolment" in result.one_line
    kept = b"".join(path.read_bytes() for path in kept_files(state))
    assert TOKEN.encode() not in result.out.encode() + result.err.encode() + kept


def kept_files(state: Path) -> list[Path]:
    return [path for path in state.rglob("*") if path.is_file()]


async def test_what_a_user_can_get_wrong_is_one_line(
    plane: ControlPlane, tmp_path: Path, free_port: int
) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    enroll = ("enroll", *state, "--token", TOKEN, "--server")
    nobody = await call(*enroll, f"http://127.0.0.1:{free_port}")
    assert "Connection refused" in nobody.one_line
    assert nobody.code == 1
    assert "TLS only" in (await call(*enroll, "http://gpu.example.org")).one_line
    assert "Expected an address like" in (await call(*enroll, "gpu.example.org")).one_line
    no_token = await call("enroll", *state, "--server", plane.origin)
    assert "REMOTEGPU_ENROLL_TOKEN" in no_token.one_line
    empty = await call("enroll", *state, "--server", plane.origin, "--token", "-")
    assert "token is empty" in empty.one_line
    not_enrolled = await call("run", *state)
    assert "not enrolled" in not_enrolled.one_line
    assert not_enrolled.code == 2
    assert (await call("status", *state)).code == 2
    assert "--log-level" in (await call("run", *state, "--log-level", "loud")).one_line
    assert (await call("run", *state, "--gpu-source", "abacus")).code == 2


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("STATE_DIR", "/dev/null/x", "/dev/null/x"),
        ("SERVER", "gpu.example.org", "gpu.example.org"),
        ("SERVER", "https://gpu.example.org/below", "https://gpu.example.org/below"),
        ("CA_FILE", "/nowhere.pem", "/nowhere.pem"),
        ("GPU_SOURCE", "abacus", "REMOTEGPU_AGENT_GPU_SOURCE"),
        ("SIMULATED_GPUS", "-1", "--simulated-gpus"),
        ("SIMULATED_SEED", "x", "--simulated-seed"),
        ("DRIVER_RETRY", "nan", "--driver-retry"),
        ("PROXY", "nonsense", "REMOTEGPU_AGENT_PROXY"),
        ("LOG_LEVEL", "loud", "--log-level"),
        ("LOG_FORMAT", "xml", "--log-format"),
        ("SERVR", "https://gpu.example.org", "write REMOTEGPU_AGENT_SERVER"),
    ],
)
async def test_no_setting_is_ignored(tmp_path: Path, name: str, value: str, said: str) -> None:
    given = {
        "REMOTEGPU_AGENT_STATE_DIR": str(tmp_path / "state"),
        "REMOTEGPU_AGENT_SERVER": "https://127.0.0.1:1",
        "REMOTEGPU_ENROLL_TOKEN": TOKEN,
        f"REMOTEGPU_AGENT_{name}": value,
    }
    command = "enroll" if name in {"STATE_DIR", "SERVER", "CA_FILE", "SERVR"} else "run"
    refused = await call(command, environment=given)
    assert refused.code != 0
    assert said in refused.err
    assert "Traceback" not in refused.err


async def test_a_state_directory_that_cannot_be_used_is_one_line(
    plane: ControlPlane, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    enroll = ("enroll", "--server", plane.origin, "--token", TOKEN, "--state-dir")
    assert "cannot be made" in (await call(*enroll, str(blocked / "state"))).one_line
    loose = tmp_path / "loose"
    loose.mkdir(mode=0o755)
    assert "chmod 700" in (await call(*enroll, str(loose))).one_line
    # /proc takes no directory from anybody, root included.
    assert "cannot be made" in (await call(*enroll, "/proc/state")).one_line


async def test_a_bad_certificate_is_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with running_control_plane(tls=authority.server_context()) as plane:
        plane.tokens[TOKEN] = None
        enroll = (
            "enroll", "--server", plane.origin, "--token", TOKEN, "--state-dir", str(tmp_path / "s"),
        )  # fmt: skip
        assert "--ca-file" in (await call(*enroll)).one_line
        assert "not there" in (await call(*enroll, "--ca-file", "nowhere.pem")).one_line
        # A relative path is good where it was given; the agent starts elsewhere.
        relative = relative_to_here(authority.file)
        assert (await call(*enroll, "--ca-file", relative)).code == 0
        async with started("run", "--state-dir", str(tmp_path / "s")) as agent:
            await plane.until(lambda: plane.machines and plane.epoch)
            agent.terminate()
            await agent.communicate()


def relative_to_here(path: Path) -> str:
    return os.path.relpath(path)

"""What the agent itself costs its host: eight GPUs, one sample a second, somebody watching."""

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from bench.event import DOCUMENT, GPUS
from bench.product import Product
from bench.viewers import LoadFailed
from bench.workspace import Workspace
from remotegpu_graphql.ids import encode_id
from tests.agent.stub import StubDriver, build_library
from tests.services.process import ServerProcess

_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu` in percent of a core; memory in MiB of the agent and its NVML child together.

    Pages that the two share are counted once in `memory` (proportional set size), twice in
    `resident`.
    """

    cpu: float
    memory: float
    resident: float
    samples: int


def measure_agent(
    workspace: Workspace, product: Product, *, seconds: float, windows: int
) -> list[Cost]:
    """Enrol and run the real agent on a stub of NVIDIA's driver, and watch its machine live."""
    folder = workspace.folder / "agent"
    folder.mkdir()
    driver = StubDriver(folder, build_library(folder))
    driver.tell(cards=" ".join(map(str, range(GPUS))))
    driver.install()
    program = Path(sys.executable).with_name("remotegpu-agent")
    state = folder / "state"
    enrolled = subprocess.run(
        [program, "enroll", "--server", product.origin, "--token", "-", "--state-dir", state],
        input=product.spare_tokens[0],
        env=driver.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if enrolled.returncode != 0:
        raise LoadFailed(f"The agent was not enrolled: {enrolled.stderr.strip()}")
    variables = [
        f"{name}={value}"
        for name, value in driver.environment.items()
        if os.environ.get(name) != value
    ]
    process = ServerProcess(
        ["env", *variables, program, "run", "--state-dir", state, "--gpu-source", "nvml"],
        log=folder / "agent.log",
    )
    try:
        process.wait_until(lambda: _machine(program, state) is not None)
        machine = _machine(program, state) or ""
        with _viewer(product, machine) as viewer:
            _await_sample(viewer)
            return [_measure(process.pid, viewer, seconds) for _ in range(windows)]
    finally:
        process.stop()


def _machine(program: Path, state: Path) -> str | None:
    """The machine's id, once the agent is connected."""
    status = subprocess.run(
        [program, "status", "--state-dir", state, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if status.returncode != 0:
        return None
    found: str = json.loads(status.stdout)["machine_id"]
    return found


def _viewer(product: Product, machine_id: str) -> ClientConnection:
    viewer = connect(
        f"ws://127.0.0.1:{product.server.port}/graphql",
        subprotocols=[Subprotocol("graphql-transport-ws")],
        compression=None,
    )
    viewer.send(json.dumps({"type": "connection_init", "payload": {"token": product.token}}))
    viewer.recv(_PATIENCE)
    machine = encode_id("Machine", uuid.UUID(machine_id))
    payload = {"query": DOCUMENT, "variables": {"machineIds": [machine]}}
    viewer.send(json.dumps({"type": "subscribe", "id": "live", "payload": payload}))
    return viewer


def _await_sample(viewer: ClientConnection) -> None:
    """Wait until all GPUs are seen."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        message: dict[str, Any] = json.loads(viewer.recv(_PATIENCE))
        if message["type"] != "next":
            raise LoadFailed(f"The subscription did not begin: {message}")
        if len(message["payload"]["data"]["machineMetrics"]["gpus"]) == GPUS:
            return
    raise LoadFailed(f"The agent never reported {GPUS} GPUs.")


def _measure(pid: int, viewer: ClientConnection, seconds: float) -> Cost:
    agent = psutil.Process(pid)
    processes = [agent, *agent.children(recursive=True)]
    cpu, begun, samples = _cpu(processes), time.monotonic(), 0
    end = begun + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            viewer.recv(left)
            samples += 1
        except TimeoutError:
            break
    used, took = _cpu(processes) - cpu, time.monotonic() - begun
    if samples < seconds * 0.8 - 1:
        raise LoadFailed(f"Only {samples} samples came in {took:.1f} s, one a second is due.")
    memory = [process.memory_full_info() for process in processes]
    return Cost(
        cpu=100 * used / took,
        memory=sum(part.pss for part in memory) / 2**20,
        resident=sum(part.rss for part in memory) / 2**20,
        samples=samples,
    )


def _cpu(processes: list[psutil.Process]) -> float:
    """Seconds of processor time, as the scheduler counts them: the hundredths that processes have
    in their own accounts are most of a percent of a quick run's window."""
    return sum(
        int(account.read_text().split()[0]) / 1e9
        for process in processes
        for account in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    )

"""Real agents beside the load: the program itself, enrolled, each with simulated GPUs."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.product import Product
from bench.viewers import LoadFailed
from bench.workspace import Workspace
from tests.services.process import ServerProcess

_PROGRAM: Final = Path(sys.executable).with_name("remotegpu-agent")


@contextmanager
def real_agents(workspace: Workspace, product: Product, count: int) -> Iterator[None]:
    """So many agents, connected when the block begins and ended when it does."""
    with ExitStack() as running:
        started = [
            running.enter_context(_agent(workspace, product, number)) for number in range(count)
        ]
        for process, state in started:
            process.wait_until(partial(_is_connected, state))
        yield


@contextmanager
def _agent(
    workspace: Workspace, product: Product, number: int
) -> Iterator[tuple[ServerProcess, Path]]:
    folder = workspace.folder / f"agent-{product.server.port}-{number}"
    folder.mkdir()
    state = folder / "state"
    enrolled = subprocess.run(
        [_PROGRAM, "enroll", "--server", product.origin, "--token", "-", "--state-dir", state],
        input=product.spare_tokens[number],
        capture_output=True,
        text=True,
        check=False,
    )
    if enrolled.returncode != 0:
        raise LoadFailed(f"An agent was not enrolled: {enrolled.stderr.strip()}")
    process = ServerProcess(
        [_PROGRAM, "run", "--state-dir", state, "--gpu-source", "simulated"],
        log=folder / "agent.log",
    )
    try:
        yield process, state
    finally:
        process.stop()


def _is_connected(state: Path) -> bool:
    status: list[str | Path] = [_PROGRAM, "status", "--state-dir", state, "--json"]
    return subprocess.run(status, capture_output=True, check=False).returncode == 0

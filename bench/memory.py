"""Memory of an idle subscriber: the server's resident memory before and after many of them."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.event import DOCUMENT, write_sample
from bench.fanout import LiveServer
from bench.viewers import LoadFailed, viewer_command
from bench.workspace import Workspace

#: Subscribers that are there before anything is measured: what the first ones bring is the
#: server's own.
_FIRST: Final = 100
#: Seconds in which what was allocated while they came is given back, as far as it is.
_REST: Final = 0.5


def kib_per_subscriber(
    workspace: Workspace, live: LiveServer, count: int, steps: int
) -> list[float]:
    """KiB of resident memory for each of `count` subscribers that wait for their next event.

    They come in `steps`, each measured by itself, and all stay: memory of ones that left would be
    used again and look like none.
    """
    with ExitStack() as watching:
        watching.enter_context(_idle(workspace, live, _FIRST))
        measured = []
        for _ in range(steps):
            before = resident_kib(live.server.pid)
            watching.enter_context(_idle(workspace, live, count))
            measured.append((resident_kib(live.server.pid) - before) / count)
        return measured


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LoadFailed(f"Process {pid} has no resident memory.")


@contextmanager
def _idle(workspace: Workspace, live: LiveServer, count: int) -> Iterator[None]:
    command = viewer_command(
        workspace,
        live.server,
        count,
        document=DOCUMENT,
        machine=live.machine,
        channel=live.channel,
        sample=write_sample(workspace.folder / "sample"),
        token=live.token,
    )
    process = subprocess.Popen(
        [*command, "--idle"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None or not process.stdout.readline():
            _, said = process.communicate()
            raise LoadFailed(f"{live.server.name}: {said.strip()}")
        time.sleep(_REST)
        yield
    finally:
        process.communicate()

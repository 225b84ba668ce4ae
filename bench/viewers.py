"""The load client's viewers: how many, what they ask, and what a run of them measured."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.plan import Timing
from bench.server import Server
from bench.workspace import Workspace


class LoadFailed(Exception):
    """The load client gave up; its last words say why."""


class Window(msgspec.Struct, frozen=True):
    """One measured stretch. Seconds of time and of processor time, bytes of payload."""

    seconds: float
    events: int
    delivered: int
    bytes: int
    skipped: int
    server_cpu: float
    client_cpu: float
    p50_ms: float
    p99_ms: float
    resident_kib: int

    @property
    def busy(self) -> float:
        """The server's share of its core in percent: far below 100, something else had it."""
        return 100 * self.server_cpu / self.seconds

    @property
    def rate(self) -> float:
        """Messages delivered a second."""
        return self.delivered / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The server's milliseconds of processor time for 1,000 messages."""
        return self.server_cpu * 1e6 / max(1, self.delivered)


@dataclass(frozen=True, slots=True)
class Viewers:
    """`rate` is events a second, 0 as fast as they are delivered."""

    count: int
    timing: Timing
    rate: float = 0


def watch(
    workspace: Workspace,
    server: Server,
    viewers: Viewers,
    *,
    document: str,
    machine: str,
    channel: str,
    sample: Path,
    token: str | None,
) -> list[Window]:
    """Have `viewers` subscribe to one machine while its samples are published."""
    command = [
        *viewer_command(
            workspace,
            server,
            viewers.count,
            document=document,
            machine=machine,
            channel=channel,
            sample=sample,
            token=token,
        ),
        *("--rate", str(viewers.rate)),
        *viewers.timing.options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadFailed(f"{server.name}: {done.stderr.strip()}")
    return [msgspec.json.decode(line, type=Window) for line in done.stdout.splitlines()]


def viewer_command(
    workspace: Workspace,
    server: Server,
    count: int,
    *,
    document: str,
    machine: str,
    channel: str,
    sample: Path,
    token: str | None,
) -> list[str]:
    init = {"type": "connection_init", "payload": {"token": token} if token else {}}
    subscribe = {
        "id": "live",
        "type": "subscribe",
        "payload": {"query": document, "variables": {"machineIds": [machine]}},
    }
    return [
        str(workspace.programs["viewers"]),
        *("--port", str(server.port)),
        *("--viewers", str(count)),
        *("--init", str(workspace.write("init.json", json.dumps(init)))),
        *("--subscribe", str(workspace.write("subscribe.json", json.dumps(subscribe)))),
        *("--redis-port", str(workspace.redis.port)),
        *("--channel", channel),
        *("--sample", str(sample)),
        *("--pid", str(server.pid)),
    ]

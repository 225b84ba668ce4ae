"""Fan-out: equal subscriptions to one machine's live metrics. The same servers answer queries."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.event import DOCUMENT, write_sample
from bench.fleet import MACHINES, write_fleet
from bench.product import running_product
from bench.query import keep_latest
from bench.server import Server, running_server
from bench.viewers import Viewers, Window, watch
from bench.workspace import Workspace
from remotegpu_core.bus.keys import sample_channel
from remotegpu_graphql.ids import encode_id

#: Peers watch a machine that exists only on their channel.
_MACHINE: Final = "TWFjaGluZTowMTk5YTU5MTE4ZmY3Y2M4OWE0YWU0ZTY5N2I3NDhlYQ"
_CHANNEL: Final = "rg:sample:bench"


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server, and how to ask it for the live metrics of one machine."""

    server: Server
    machine: str
    channel: str
    token: str | None = None


@contextmanager
def live_product(workspace: Workspace, *, frame_path: bool = True) -> Iterator[LiveServer]:
    """RemoteGPU with the fleet that queries ask about; its events by plain ASGI on request."""
    with running_product(workspace, hosts=MACHINES, frame_path=frame_path) as product:
        keep_latest(workspace, product)
        machine_id = product.hosts[0].machine_id
        yield LiveServer(
            product.server,
            encode_id("Machine", machine_id),
            sample_channel(machine_id),
            product.token,
        )


@contextmanager
def live_peer(
    workspace: Workspace, name: str, command: list[str | Path], **variables: str
) -> Iterator[LiveServer]:
    """A peer, which asks nobody for a token; `variables` go into its environment."""
    environment = {
        **variables,
        "BENCH_FLEET": str(write_fleet(workspace.folder / "fleet.json")),
        "BENCH_REDIS_URL": workspace.redis.url,
        "BENCH_CHANNEL": _CHANNEL,
        "BENCH_MACHINE": _MACHINE,
    }
    with running_server(name, command, workspace.folder, environment=environment) as server:
        yield LiveServer(server, _MACHINE, _CHANNEL)


def measure(workspace: Workspace, live: LiveServer, viewers: Viewers) -> list[Window]:
    return watch(
        workspace,
        live.server,
        viewers,
        document=DOCUMENT,
        machine=live.machine,
        channel=live.channel,
        sample=write_sample(workspace.folder / "sample"),
        token=live.token,
    )

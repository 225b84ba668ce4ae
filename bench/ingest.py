"""Ingest: samples from agents' websockets into Redis, kept as the latest and published."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from bench.event import make_metrics
from bench.links import Window, allow_descriptors, drive, plain_link, signed_links
from bench.plan import Timing
from bench.product import running_product
from bench.real_agents import real_agents
from bench.server import Server, running_server
from bench.workspace import Workspace
from remotegpu_core.clock import now_ms
from remotegpu_protocol.codec import encode
from remotegpu_protocol.messages import Heartbeat

#: Links of the benchmark at full speed.
LINKS: Final = 50


def packed_message(workspace: Workspace) -> Path:
    """A sample as RemoteGPU's agents send it."""
    path = workspace.folder / "metrics.msgpack"
    path.write_bytes(encode(make_metrics()))
    return path


def json_message(workspace: Workspace) -> Path:
    """The same sample as JSON, with the same arrays, for peers that take JSON."""
    path = workspace.folder / "metrics.json"
    path.write_bytes(msgspec.json.encode(make_metrics()))
    return path


def flood_product(workspace: Workspace, timing: Timing) -> list[Window]:
    """Signed links that send as fast as they can."""
    with running_product(workspace, hosts=LINKS, unthrottled=True) as product:
        links = signed_links(product)
        return drive(
            workspace,
            product.server,
            links,
            packed_message(workspace),
            timing=timing,
        )


def heartbeat_message(workspace: Workspace) -> Path:
    """A heartbeat; its clock, the last eight bytes, is the load client's to set."""
    path = workspace.folder / "heartbeat.msgpack"
    path.write_bytes(encode(Heartbeat(sequence=1, clock=now_ms())))
    return path


def steady_product(
    workspace: Workspace, links: int, timing: Timing, *, agents: int = 0
) -> list[Window]:
    """Signed links that each send one sample a second and a heartbeat every five, to the product
    as it is, beside so many real agents.
    """
    allow_descriptors(2 * links)
    with (
        running_product(workspace, hosts=links) as product,
        real_agents(workspace, product, agents),
    ):
        return drive(
            workspace,
            product.server,
            signed_links(product),
            packed_message(workspace),
            rate=1,
            heartbeat=heartbeat_message(workspace),
            timing=timing,
        )


def flood_peer(
    workspace: Workspace,
    name: str,
    command: list[str | Path],
    *,
    as_json: bool,
    timing: Timing,
) -> list[Window]:
    """The same load on a peer, which asks nobody for a signature."""
    with _running_peer(workspace, name, command) as server:
        return drive(
            workspace,
            server,
            [plain_link(server) for _ in range(LINKS)],
            json_message(workspace) if as_json else packed_message(workspace),
            text=as_json,
            timing=timing,
        )


@contextmanager
def _running_peer(workspace: Workspace, name: str, command: list[str | Path]) -> Iterator[Server]:
    environment = {"BENCH_REDIS_URL": workspace.redis.url}
    with running_server(name, command, workspace.folder, environment=environment) as server:
        yield server

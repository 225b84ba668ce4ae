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
from bench.server import Server, running_server
from bench.workspace import Workspace
from remotegpu_protocol.codec import encode

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


def steady_product(workspace: Workspace, links: int, timing: Timing) -> list[Window]:
    """Signed links that each send one sample a second, to the product as it is."""
    allow_descriptors(2 * links)
    with running_product(workspace, hosts=links) as product:
        return drive(
            workspace,
            product.server,
            signed_links(product),
            packed_message(workspace),
            rate=1,
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

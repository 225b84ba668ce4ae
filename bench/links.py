"""Links of agents: greeted here, where the signatures are made, and then driven by the load client."""

import os
import resource
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from bench.plan import Timing
from bench.product import Host, Product
from bench.server import Server
from bench.viewers import LoadFailed
from bench.workspace import Workspace
from remotegpu_core.clock import now_ms
from remotegpu_protocol.agent_link import AgentLink
from remotegpu_protocol.codec import encode
from remotegpu_protocol.limits import HEARTBEAT_INTERVAL, SUBPROTOCOL
from remotegpu_protocol.messages import Heartbeat
from remotegpu_protocol.openings import connecting
from tests.services.ports import LOOPBACK


class Window(msgspec.Struct, frozen=True):
    """One measured stretch. `stored` are samples that Redis got; seconds of processor time."""

    seconds: float
    sent: int
    stored: int
    server_cpu: float
    client_cpu: float
    resident_kib: int

    @property
    def busy(self) -> float:
        """The server's share of its core in percent: far below 100, something else had it."""
        return 100 * self.server_cpu / self.seconds

    @property
    def client_busy(self) -> float:
        """The load client's share of its core in percent: it must not be what limits the server."""
        return 100 * self.client_cpu / self.seconds

    @property
    def rate(self) -> float:
        """Samples stored and published a second."""
        return self.stored / self.seconds

    @property
    def cpu_us(self) -> float:
        """The server's microseconds of processor time a sample."""
        return self.server_cpu * 1e6 / max(1, self.stored)


def allow_descriptors(count: int) -> None:
    """Let this process, and what it starts, have `count` more open files."""
    wanted = count + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else max(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limit))


def plain_link(server: Server) -> socket.socket:
    """A websocket at a peer's /agent, which asks for no greeting."""
    return _upgrade(server.port)[0]


def signed_links(product: Product) -> list[socket.socket]:
    """A link of each of the product's hosts; those that came first are kept alive meanwhile."""
    opened: list[socket.socket] = []
    beaten_at = time.monotonic()
    for host in product.hosts:
        opened.append(signed_link(product, host))
        if time.monotonic() - beaten_at > HEARTBEAT_INTERVAL:
            beaten_at = time.monotonic()
            beat = encode(Heartbeat(sequence=1, clock=now_ms()))
            frame = Frame(Opcode.BINARY, beat).serialize(mask=True)
            for link in opened:
                link.sendall(frame)
    return opened


def signed_link(product: Product, host: Host) -> socket.socket:
    """A websocket whose agent proved with the host's key who it is, and was welcomed.

    Raises:
        LoadFailed: it was not.
    """
    opened, protocol, events = _upgrade(product.server.port)
    opening = connecting(
        host.key,
        machine_id=str(host.machine_id),
        origin=product.origin,
        agent_version="bench",
        boot_id=str(host.machine_id),
    )
    link = AgentLink(opening, now=time.monotonic())
    while link.welcome is None:
        for event in events:
            if isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                link.receive(bytes(event.data), now=time.monotonic(), clock=now_ms())
        for frame in link.take_frames():
            protocol.send_binary(frame)
        opened.sendall(b"".join(protocol.data_to_send()))
        if link.welcome is None:
            data = opened.recv(65536)
            if not data:
                raise LoadFailed(f"The server refused an agent: {link.close_reason}")
            protocol.receive_data(data)
            events = protocol.events_received()
    return opened


def _upgrade(port: int) -> tuple[socket.socket, ClientProtocol, list[Event]]:
    """A socket whose handshake is over, and what came right behind the answer to it."""
    opened = socket.create_connection((LOOPBACK, port), timeout=30)
    protocol = ClientProtocol(
        parse_uri(f"ws://{LOOPBACK}:{port}/agent"), subprotocols=[Subprotocol(SUBPROTOCOL)]
    )
    protocol.send_request(protocol.connect())
    opened.sendall(b"".join(protocol.data_to_send()))
    while protocol.state is State.CONNECTING:
        protocol.receive_data(opened.recv(65536))
        if protocol.handshake_exc is not None:
            raise LoadFailed(f"The server refused an agent: {protocol.handshake_exc}")
    return opened, protocol, protocol.events_received()


def drive(
    workspace: Workspace,
    server: Server,
    links: Sequence[socket.socket],
    message: Path,
    *,
    timing: Timing,
    text: bool = False,
    rate: float = 0,
    heartbeat: Path | None = None,
) -> list[Window]:
    """Send `message` on all links, `rate` times a second each, or as fast as they take it.

    With a rate they may send `heartbeat` besides, as often as agents do.
    """
    with ExitStack() as open_here:
        # The program takes them by number, so they are made to follow one another.
        first = 3 + max(link.fileno() for link in links)
        for place, link in enumerate(links):
            os.dup2(link.fileno(), first + place)
            open_here.callback(os.close, first + place)
            link.close()
        command = [
            str(workspace.programs["agents"]),
            *("--first-fd", str(first)),
            *("--links", str(len(links))),
            *("--redis-port", str(workspace.redis.port)),
            *("--message", str(message)),
            *(["--text"] if text else []),
            *("--rate", str(rate)),
            *(("--heartbeat", str(heartbeat)) if heartbeat else ()),
            *("--beat-seconds", str(HEARTBEAT_INTERVAL)),
            *timing.options,
            *("--pid", str(server.pid)),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=range(first, first + len(links)),
        )
    if done.returncode != 0:
        raise LoadFailed(f"{server.name}: {done.stderr.strip()}")
    return [msgspec.json.decode(line, type=Window) for line in done.stdout.splitlines()]

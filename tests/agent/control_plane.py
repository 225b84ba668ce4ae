"""A control plane for agents under test: a real websocket server around a real ServerLink."""

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_agent.link import wall_clock
from remotegpu_protocol.errors import AuthenticationFailed, ProtocolError, Revoked
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.keys import verify_enroll, verify_hello
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES, SUBPROTOCOL
from remotegpu_protocol.messages import Enroll, FromAgent, Hello
from remotegpu_protocol.server_link import ServerLink, ServerState

Kind = TypeVar("Kind")

#: Seconds within which anything that is expected happens.
PATIENCE = 20.0


@dataclass
class Peer:
    """One connection, seen from the control plane."""

    websocket: ServerConnection
    link: ServerLink
    opened_at: float
    messages: list[FromAgent] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        messages: list[object] = [*self.messages]
        return [message for message in messages if isinstance(message, kind)]

    async def flush(self) -> None:
        for frame in self.link.take_frames():
            await self.websocket.send(frame)

    async def watch(self, *, interval: float, lease: float) -> None:
        self.link.watch(interval=interval, lease=lease)
        await self.flush()

    async def end(self, error: ProtocolError) -> None:
        self.link.refuse(error)
        await self.flush()
        await self.websocket.close(self.link.close_code or 1011, "")


@dataclass
class ControlPlane:
    """What it does can be changed while it runs."""

    origin: str = ""
    #: Origins that it says it has; its own unless a test says otherwise.
    origins: list[str] = field(default_factory=list)
    #: Token to public key; None until somebody redeemed it.
    tokens: dict[str, bytes | None] = field(default_factory=dict)
    machines: dict[str, bytes] = field(default_factory=dict)
    machine_name: str = "node-1"
    peers: list[Peer] = field(default_factory=list)
    heartbeat_interval: float = 1.0
    link_silence: float = 5.0
    sample_interval: float = 0.2
    acknowledge: bool = True
    #: Stops answering, as a dead peer would, while TCP goes on.
    silent: bool = False
    #: Hangs up instead of sending the answer to an enrolment.
    lose_answer: bool = False
    revoked: bool = False
    epoch: int = 0
    #: Asked about every message besides, after the usual answer.
    listeners: list[Callable[[Peer, FromAgent], None]] = field(default_factory=list)
    #: Milliseconds by which its clock is ahead of the host's.
    ahead: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def clock(self) -> int:
        return wall_clock() + self.ahead

    async def until(self, condition: Callable[[], Kind | None]) -> Kind:
        """Wait until `condition` gives something true, and return it."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.changed.wait()
        return found

    async def peer(self, number: int = 1) -> Peer:
        """The connection with this number, once it is open."""

        def find() -> Peer | None:
            if len(self.peers) < number:
                return None
            peer = self.peers[number - 1]
            return peer if peer.link.state is ServerState.OPEN else None

        return await self.until(find)

    async def handle(self, websocket: ServerConnection) -> None:
        link = ServerLink(
            nonce=secrets.token_bytes(32),
            origins=self.origins or [self.origin],
            now=time.monotonic(),
            clock=self.clock,
        )
        peer = Peer(websocket, link, time.monotonic())
        self.peers.append(peer)
        try:
            await self._serve(peer)
        except ConnectionClosed:
            pass
        finally:
            peer.closed.set()
            self.changed.set()

    async def _serve(self, peer: Peer) -> None:
        await peer.flush()
        async for frame in peer.websocket:
            if self.silent:
                continue
            message = peer.link.receive(frame, now=time.monotonic(), clock=self.clock)
            if message is not None:
                peer.messages.append(message)
                peer.arrivals.append(time.monotonic())
                self._answer(peer, message)
                for listener in self.listeners:
                    listener(peer, message)
                self.changed.set()
            if self.lose_answer and isinstance(message, Enroll):
                peer.websocket.transport.abort()
                return
            await peer.flush()
            if peer.link.state is ServerState.CLOSED:
                await peer.websocket.close(peer.link.close_code or 1011, "")
                return

    def _answer(self, peer: Peer, message: FromAgent) -> None:
        try:
            match message:
                case Enroll():
                    self._enroll(peer, message)
                case Hello():
                    self._greet(peer, message)
                case Inventory() if self.acknowledge:
                    peer.link.acknowledge_inventory(message.revision)
                case _:
                    pass
        except ProtocolError as error:
            peer.link.refuse(error)

    def _enroll(self, peer: Peer, message: Enroll) -> None:
        verify_enroll(message, nonce=peer.link.nonce)
        redeemed_by = self.tokens.get(message.token, b"")
        if redeemed_by not in {None, message.public_key}:
            raise AuthenticationFailed("The enrolment token is not valid: it expired or was used.")
        self.tokens[message.token] = message.public_key
        known = {key: machine for machine, key in self.machines.items()}
        machine = known.get(message.public_key, f"machine-{len(self.machines) + 1}")
        self.machines[machine] = message.public_key
        peer.link.enrolled(machine_id=machine, machine_name=self.machine_name)

    def _greet(self, peer: Peer, message: Hello) -> None:
        if self.revoked:
            raise Revoked("This key was revoked.")
        key = self.machines.get(message.machine_id)
        if key is None:
            raise AuthenticationFailed("There is no such machine.")
        verify_hello(message, public_key=key, nonce=peer.link.nonce)
        self.epoch += 1
        peer.link.welcome(
            epoch=self.epoch,
            machine_name=self.machine_name,
            clock=self.clock,
            heartbeat_interval=self.heartbeat_interval,
            link_silence=self.link_silence,
            sample_interval=self.sample_interval,
        )


@asynccontextmanager
async def running_control_plane(
    *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    async with serve(
        plane.handle,
        "127.0.0.1",
        port,
        ssl=tls,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        max_size=MAX_MESSAGE_BYTES,
        close_timeout=0.5,
    ) as server:
        bound = next(iter(server.sockets)).getsockname()[1]
        plane.origin = (
            f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{bound}"
        )
        yield plane


@asynccontextmanager
async def background(work: Coroutine[None, None, None]) -> AsyncIterator["asyncio.Task[None]"]:
    """Run `work` beside the test, and end it with the test; what it raised is raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

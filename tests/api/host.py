"""A scripted host: the protocol's own state machine on a real websocket, saying what a test wants."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_agent.identity import HostKey
from remotegpu_core.clock import now_ms
from remotegpu_protocol.agent_link import AgentLink, AgentState, Opening
from remotegpu_protocol.codec import decode_from_server, encode
from remotegpu_protocol.commands import Command, Event, EventAck, EventState
from remotegpu_protocol.inventory import DriverState, GpuInventory, HostInventory, Inventory
from remotegpu_protocol.limits import SUBPROTOCOL
from remotegpu_protocol.messages import (
    Enrolled,
    Error,
    FromServer,
    Heartbeat,
    HeartbeatAck,
    InventoryAck,
    WatchRate,
)
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics
from remotegpu_protocol.openings import connecting, enrolling
from tests.api.documents import ENROLL
from tests.api.plane import Server
from tests.api.viewer import PATIENCE

Kind = TypeVar("Kind")

GIB = 1024**3
BOOT = "0f3a2f5e-6f57-4dd3-a9d6-4d5b0d5d8a11"


def sample(at: int | None = None, *, gpus: int = 2, utilization: float = 50.0) -> Metrics:
    """A plausible sample; `at` in milliseconds since the Unix epoch, now by default."""
    return Metrics(
        sampled_at=now_ms() if at is None else at,
        host=HostMetrics(cpu_utilization=12.5, memory_used=8 * GIB, memory_total=64 * GIB),
        gpus=[
            GpuMetrics(
                index=index,
                uuid=f"GPU-{index}",
                utilization=utilization,
                memory_used=10 * GIB,
                memory_total=80 * GIB,
                temperature=61.0,
                power=312.5,
                sm_clock=1980,
            )
            for index in range(gpus)
        ],
    )


def inventory(
    *uuids: str, revision: int = 1, hostname: str = "node", hardware: str | None = None
) -> Inventory:
    return Inventory(
        revision=revision,
        host=HostInventory(
            hostname=hostname,
            hardware_uuid=hardware,
            cpu_model="EPYC 9654",
            cpu_count=192,
            memory_total=64 * GIB,
            driver_state=DriverState.READY,
            driver_version="570.86.15",
            cuda_version="12.8",
        ),
        gpus=[
            GpuInventory(index=index, uuid=uuid, model="NVIDIA H100", memory_total=80 * GIB)
            for index, uuid in enumerate(uuids)
        ],
    )


class Link:
    """One open connection. It beats by itself unless told to be silent."""

    def __init__(self, websocket: ClientConnection, opening: Opening, clock_offset: int) -> None:
        self.websocket = websocket
        self.link = AgentLink(opening, now=time.monotonic())
        self.received: list[FromServer] = []
        #: Heartbeats that were answered, by their sequence.
        self.acknowledged: list[int] = []
        #: Neither reads nor writes any more, as a host whose cable was pulled.
        self.frozen = False
        self._has_told = False
        self._clock_offset = clock_offset
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def epoch(self) -> int:
        assert self.link.welcome is not None
        return self.link.welcome.epoch

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [message for message in self.received if isinstance(message, kind)]

    def errors(self, code: str) -> list[Error]:
        return [error for error in self.of(Error) if error.code == code]

    async def until(self, happened: Callable[[], Kind], *, within: float = PATIENCE) -> Kind:
        """Wait until `happened` gives something true, and return it."""
        async with asyncio.timeout(within):
            while not (found := happened()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def open(self) -> "Link":
        await self.until(lambda: self.link.welcome is not None or self._task.done())
        assert self.link.welcome is not None, self.received
        return self

    async def send(self, metrics: Metrics) -> None:
        """Send a sample; before the first, an inventory of its GPUs where none was sent."""
        if not self._has_told and metrics.gpus:
            await self.send_inventory(inventory(*(gpu.uuid for gpu in metrics.gpus)))
        self.link.send_metrics(metrics)
        await self._flush()

    async def send_inventory(self, said: Inventory) -> InventoryAck:
        """Send it and wait for the answer."""
        self._has_told = True
        self.link.send_inventory(said, now=time.monotonic())
        await self._flush()
        return await self.until(
            lambda: next((a for a in self.of(InventoryAck) if a.revision == said.revision), None)
        ) or InventoryAck(-1)

    async def commands(self, count: int) -> list[Command]:
        """The first `count` commands that came over this link."""
        await self.until(lambda: len(self.of(Command)) >= count)
        return self.of(Command)

    async def tell(self, command_id: str, sequence: int, state: EventState, **more: Any) -> None:
        """Send an event, and wait until it is acknowledged."""
        self.link.send_event(Event(sequence, command_id, state, self._clock(), **more))
        await self._flush()
        await self.until(lambda: any(ack.sequence >= sequence for ack in self.of(EventAck)))

    async def heartbeat(self, sequence: int, *, within: float) -> None:
        """Send one by hand, and wait for its answer."""
        await self.send_raw(encode(Heartbeat(sequence, self._clock())))
        await self.until(lambda: sequence in self.acknowledged, within=within)

    async def send_raw(self, frame: bytes | str) -> None:
        """Send what the state machine would not."""
        await self.websocket.send(frame)

    async def watched_at(self, interval: float, *, within: float = PATIENCE) -> WatchRate:
        """Wait until the newest wish is for `interval` seconds."""

        def newest() -> WatchRate | None:
            wishes = self.of(WatchRate)
            return wishes[-1] if wishes and wishes[-1].interval == interval else None

        found = await self.until(newest, within=within)
        assert found is not None
        return found

    async def closed(self, *, within: float = PATIENCE) -> tuple[int | None, str | None]:
        async with asyncio.timeout(within):
            await asyncio.shield(self._task)
        return self.websocket.close_code, self.websocket.close_reason

    async def vanish(self) -> None:
        """Cut the connection without a word."""
        self.websocket.transport.abort()
        await self._task

    async def stop(self) -> None:
        self.frozen = False
        await self.websocket.close()
        await self._task

    def _clock(self) -> int:
        return now_ms() + self._clock_offset

    async def _run(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            async for frame in self.websocket:
                self._note(frame)
                self.received += self.link.receive(frame, now=time.monotonic(), clock=self._clock())
                self._changed.set()
                await self._flush()
        except ConnectionClosed:
            pass
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            self._changed.set()

    def _note(self, frame: bytes | str) -> None:
        # The state machine keeps these to itself.
        message = decode_from_server(frame)
        if isinstance(message, HeartbeatAck):
            self.acknowledged.append(message.sequence)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            if not self.frozen and self.link.state is AgentState.OPEN:
                self.link.tick(now=time.monotonic(), clock=self._clock())
                await self._flush()

    async def _flush(self) -> None:
        for frame in self.link.take_frames():
            with contextlib.suppress(ConnectionClosed):
                await self.websocket.send(frame)


class Host:
    """A key, and the machine that it became."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = HostKey.generate()
        self.machine_id = ""
        self.machine_name = ""
        #: The id in the graph.
        self.id = ""

    def opening(
        self,
        *,
        machine_id: str | None = None,
        origin: str | None = None,
        journal: tuple[str, int] | None = None,
    ) -> Opening:
        """`journal`: its id and the last sequence in it; without one it takes no commands."""
        return connecting(
            self.key,
            machine_id=machine_id or self.machine_id,
            origin=origin or self.server.origin,
            agent_version="1.2.3",
            boot_id=BOOT,
            journal_id=None if journal is None else journal[0],
            last_sequence=None if journal is None else journal[1],
        )

    async def enroll(
        self, token: str, *, hostname: str = "node", hardware: str | None = None
    ) -> Enrolled | Error:
        """Redeem a token over a socket of its own."""
        opening = enrolling(
            self.key,
            token=token,
            origin=self.server.origin,
            agent_version="1.2.3",
            hostname=hostname,
            hardware_uuid=hardware,
        )
        async with socket(self.server) as websocket:
            link = Link(websocket, opening, 0)
            await link.closed()
        answers = [m for m in link.received if isinstance(m, Enrolled | Error)]
        assert len(answers) == 1, link.received
        if isinstance(answers[0], Enrolled):
            self.machine_id = answers[0].machine_id
            self.machine_name = answers[0].machine_name
        return answers[0]

    @asynccontextmanager
    async def connected(
        self, *, opening: Opening | None = None, clock_offset: int = 0
    ) -> AsyncIterator[Link]:
        """An open link; `clock_offset` milliseconds are added to the host's clock."""
        async with self.dialled(opening=opening, clock_offset=clock_offset) as link:
            yield await link.open()

    @asynccontextmanager
    async def dialled(
        self, *, opening: Opening | None = None, clock_offset: int = 0
    ) -> AsyncIterator[Link]:
        """A link that may or may not open."""
        async with socket(self.server) as websocket:
            link = Link(websocket, opening or self.opening(), clock_offset)
            try:
                yield link
            finally:
                await link.stop()


@asynccontextmanager
async def socket(
    server: Server, *, subprotocol: str | None = SUBPROTOCOL
) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"{server.websocket_url}/agent",
        subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=0.5,
    ) as websocket:
        yield websocket


async def enrollment_token(server: Server, admin: str, name: str) -> str:
    answer = await server.ask(ENROLL, {"input": {"machineName": name}}, token=admin)
    assert answer["createEnrollment"]["userErrors"] == []
    token: str = answer["createEnrollment"]["token"]
    return token


async def enrolled(server: Server, admin: str, name: str) -> Host:
    """A host that is a machine, not connected yet."""
    host = Host(server)
    answer = await host.enroll(await enrollment_token(server, admin, name))
    assert isinstance(answer, Enrolled), answer
    found = await server.ask(
        "query($text: String) { machines(filter: {text: $text}) { edges { node { id name } } } }",
        {"text": name},
        token=admin,
    )
    host.id = next(
        edge["node"]["id"] for edge in found["machines"]["edges"] if edge["node"]["name"] == name
    )
    return host


def frame(message: Metrics | Inventory) -> bytes:
    """The bytes of a message, to be sent past the state machine."""
    return encode(message)


async def stored(server: Server, host: Host) -> None:
    """Wait until a sample of the host's is in the cache."""
    machine_id = uuid.UUID(host.machine_id)
    deadline = time.monotonic() + PATIENCE
    while (await server.plane.bus.live([machine_id]))[machine_id].sample is None:
        assert time.monotonic() < deadline, "no sample came"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def sampling(link: Link) -> AsyncIterator[None]:
    """Samples all the time, twenty a second."""

    async def run() -> None:
        while True:
            await link.send(sample())
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

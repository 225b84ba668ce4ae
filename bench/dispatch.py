"""Dispatch: commands from their commit to the journals of many agents, at a steady rate."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from bench.product import Host, Product
from bench.viewers import LoadFailed
from bench.workspace import Workspace
from remotegpu_core.bus.bus import Bus
from remotegpu_core.clock import now_ms
from remotegpu_core.database.connection import Database
from remotegpu_core.services import commands
from remotegpu_core.services.ledger import ledger
from remotegpu_core.settings import load_settings
from remotegpu_protocol.agent_link import AgentLink
from remotegpu_protocol.commands import Command, Event, EventAck, EventState
from remotegpu_protocol.kinds import ALLOCATION_START, AllocationStart
from remotegpu_protocol.limits import SUBPROTOCOL
from remotegpu_protocol.openings import connecting

AGENTS: Final = 200
RATE: Final = 50.0

_HOUR: Final = 3_600_000
#: Seconds within which the last commands must have arrived.
_PATIENCE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Milliseconds from the commit: until the agent has the command, and until the control plane
    has applied and acknowledged that it accepted it."""

    arrived: list[float]
    accepted: list[float]

    def percentile(self, values: list[float], part: float) -> float:
        return sorted(values)[min(len(values) - 1, int(part * len(values)))]


@dataclass
class _Watch:
    """When (monotonic seconds) each command was committed, arrived, and was accepted."""

    committed: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, float] = field(default_factory=dict)


class _Agent:
    """Accepts whatever comes at once; a real one writes its journal first."""

    def __init__(self, host: Host, product: Product, watch: _Watch) -> None:
        self._watch = watch
        opening = connecting(
            host.key,
            machine_id=str(host.machine_id),
            origin=product.origin,
            agent_version="bench",
            boot_id=str(host.machine_id),
            journal_id=f"journal-{host.machine_id}",
            last_sequence=0,
        )
        self.link = AgentLink(opening, now=time.monotonic())
        self._events: list[str] = []

    async def serve(self, websocket: ClientConnection) -> None:
        beating = asyncio.create_task(self._beat(websocket))
        try:
            async for frame in websocket:
                for message in self.link.receive(frame, now=time.monotonic(), clock=now_ms()):
                    self._take(message)
                await self._flush(websocket)
        except ConnectionClosed:
            pass
        finally:
            beating.cancel()

    def _take(self, message: object) -> None:
        match message:
            case Command() if message.id not in self._watch.arrived:
                self._watch.arrived[message.id] = time.monotonic()
                self._events.append(message.id)
                event = Event(len(self._events), message.id, EventState.ACCEPTED, now_ms())
                self.link.send_event(event)
            case EventAck():
                for command_id in self._events[: message.sequence]:
                    self._watch.accepted.setdefault(command_id, time.monotonic())

    async def _beat(self, websocket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(1)
            self.link.tick(now=time.monotonic(), clock=now_ms())
            await self._flush(websocket)

    async def _flush(self, websocket: ClientConnection) -> None:
        for frame in self.link.take_frames():
            with contextlib.suppress(ConnectionClosed):
                await websocket.send(frame)


def measure_dispatch(
    workspace: Workspace, product: Product, *, seconds: float, windows: int
) -> list[Dispatched]:
    """A command every 20 ms, each to the next of the product's hosts, written as a mutation would.

    Raises:
        LoadFailed: a command never came.
    """
    return asyncio.run(_measure(workspace, product, seconds, windows))


async def _measure(
    workspace: Workspace, product: Product, seconds: float, windows: int
) -> list[Dispatched]:
    watch = _Watch()
    database = Database(load_settings(data_dir=workspace.folder / f"product-{product.server.port}"))
    bus = Bus(workspace.redis.url)
    await database.open()
    await bus.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        stack.push_async_callback(bus.stop)
        agents = [_Agent(host, product, watch) for host in product.hosts]
        for agent in agents:
            websocket = await stack.enter_async_context(
                connect(
                    f"ws://127.0.0.1:{product.server.port}/agent",
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    close_timeout=0.5,
                )
            )
            serving = asyncio.create_task(agent.serve(websocket))
            stack.callback(serving.cancel)
        await _until(lambda: all(agent.link.welcome is not None for agent in agents))
        return [await _window(product.hosts, bus, watch, seconds) for _ in range(windows)]


async def _window(hosts: list[Host], bus: Bus, watch: _Watch, seconds: float) -> Dispatched:
    begun = time.monotonic()
    made: list[str] = []
    for number in range(int(seconds * RATE)):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
        command_id = await _write(hosts[number % len(hosts)].machine_id)
        watch.committed[command_id] = time.monotonic()
        made.append(command_id)
        await bus.nudge("bench")
    await _until(lambda: all(command_id in watch.accepted for command_id in made))
    return Dispatched(
        *(
            [1000 * (times[command_id] - watch.committed[command_id]) for command_id in made]
            for times in (watch.arrived, watch.accepted)
        )
    )


async def _write(machine_id: uuid.UUID) -> str:
    allocation_id = uuid.uuid4()
    deadline = now_ms() + _HOUR
    arguments = AllocationStart(str(allocation_id), "bench", True, [], deadline)
    async with ledger(machine_id):
        command = await commands.enqueue(
            ALLOCATION_START,
            arguments,
            machine_id=machine_id,
            deadline=deadline,
            allocation_id=allocation_id,
            generation=1,
        )
    return str(command.id)


async def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise LoadFailed("RemoteGPU: a command, or a welcome, did not come.")
        await asyncio.sleep(0.01)

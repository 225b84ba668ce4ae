"""The links that this process holds, one a machine, and what other processes ask of them."""

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Final

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from remotegpu_api.callers import source_address
from remotegpu_api.gateway.allocation_duty import AllocationDuty
from remotegpu_api.gateway.connection import AgentConnection
from remotegpu_api.gateway.dispatcher import Dispatcher
from remotegpu_api.gateway.greetings import Greetings
from remotegpu_api.gateway.pace import Pace
from remotegpu_api.gateway.presence_duty import PresenceDuty
from remotegpu_api.gateway.takeovers import Takeovers
from remotegpu_api.places import Places
from remotegpu_core.bus.keys import FENCE, WATCH
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.errors import Overloaded
from remotegpu_core.models import Machine
from remotegpu_core.networks import caller_network
from remotegpu_core.services import hosts
from remotegpu_core.states import Lifecycle
from remotegpu_core.tasks import end, keep_running
from remotegpu_protocol import errors as protocol
from remotegpu_protocol.close_codes import CloseCode, fit_reason
from remotegpu_protocol.codec import encode
from remotegpu_protocol.errors import ProtocolError, Superseded, VersionMismatch
from remotegpu_protocol.limits import SAMPLE_INTERVAL, SUBPROTOCOL, WATCH_LEASE
from remotegpu_protocol.messages import Error

log = structlog.get_logger()

#: Seconds between two looks at which links have fallen silent, and between two at how many machines
#: there are.
_TICK: Final = 1.0
_COUNT_INTERVAL: Final = 60.0


class Gateway:
    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.links: dict[uuid.UUID, AgentConnection] = {}
        self._presence = PresenceDuty(plane, self.links)
        self.dispatcher = Dispatcher(plane, self.links, self._supersede)
        self._allocations = AllocationDuty(plane)
        #: Every socket, those too that have not said who they are, and when (monotonic seconds) to
        #: look at it again: each second at all of them would cost more than a fleet's heartbeats.
        self._sockets: dict[AgentConnection, float] = {}
        self._places = Places("agents", "address")
        self._watching: dict[uuid.UUID, float] = {}
        self._takeovers = Takeovers()
        self.pace = Pace()
        self.greetings = Greetings()
        #: Seconds over which agents are to spread their first attempts to come back.
        self.retry_spread: float | None = None
        self._counted_at = -math.inf
        self._ticker: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await self.plane.bus.listener.subscribe(WATCH, self._rate_wished)
        await self.plane.bus.listener.subscribe(FENCE, self._fenced)
        await self._presence.start()
        self.dispatcher.start()
        await self._allocations.start()
        self._ticker = asyncio.create_task(
            keep_running("gateway", self._tick), name="gateway-ticker"
        )

    async def stop(self) -> None:
        """Let the agents go: they look for another replica at once."""
        await end(self._ticker)
        await self.dispatcher.stop()
        for connection in tuple(self._sockets):
            connection.link.close(CloseCode.GOING_AWAY, "The control plane is going away.")
        await asyncio.gather(*(connection.tick() for connection in tuple(self._sockets)))
        await self._allocations.stop()
        await self._presence.stop()

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one websocket at /agent from its handshake to its end."""
        if SUBPROTOCOL not in websocket.scope.get("subprotocols", []):
            await websocket.accept()
            told = f"Offer the websocket subprotocol {SUBPROTOCOL}; nothing else is spoken here."
            await _turn_away(websocket, VersionMismatch(told))
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        settings = self.plane.settings
        source = source_address(websocket, settings)
        with contextlib.ExitStack() as places:
            try:
                places.enter_context(
                    self._places.take(
                        caller_network(source),
                        total=settings.max_agents,
                        each=settings.max_agents_per_address,
                    )
                )
            except Overloaded as error:
                await _turn_away(websocket, protocol.Overloaded(error.message))
                return
            connection = AgentConnection(websocket, self, source)
            try:
                # Also given back here, by a socket that never got so far.
                places.enter_context(connection.greeting)
                connection.greeting.enter_context(self.greetings.take(caller_network(source)))
            except protocol.Overloaded as error:
                await _turn_away(websocket, error)
                return
            self._sockets[connection] = connection.link.next_tick()
            try:
                await connection.serve()
            finally:
                self._sockets.pop(connection, None)
                self._disconnected(connection)

    async def connected(self, connection: AgentConnection) -> None:
        """A machine's link opened: it replaces any older one, here and elsewhere."""
        machine_id = connection.machine_id
        if machine_id is None:
            return
        older = self.links.get(machine_id)
        if older is not None and older.epoch > connection.epoch:
            self._supersede(connection)
            return
        self.links[machine_id] = connection
        if connection in self._sockets:
            self._sockets[connection] = connection.link.next_tick()
        self._presence.connected(machine_id)
        self._watching.pop(machine_id, None)
        if older is not None:
            self._supersede(older)
        await self.plane.bus.fence(machine_id, connection.epoch)
        await self.plane.bus.nudge("presence")
        self.run(self._set_rate(machine_id))
        self.dispatcher.look()

    async def enrolled(self, machine_id: uuid.UUID, epoch: int) -> None:
        """A host was enrolled: a link that its machine's old key opened is over."""
        # Here at once, since the bus may be away.
        self._fence(machine_id, epoch)
        await self.plane.bus.fence(machine_id, epoch)
        await self.plane.bus.nudge("enrolled")

    def _disconnected(self, connection: AgentConnection) -> None:
        machine_id = connection.machine_id
        if machine_id is not None and self.links.get(machine_id) is connection:
            del self.links[machine_id]
            self._watching.pop(machine_id, None)
            self._presence.disconnected(machine_id, connection.epoch, connection.link.heard_at)

    def _rate_wished(self, message: bytes) -> None:
        machine_id = _machine_id(message)
        if machine_id is not None and machine_id in self.links:
            self.run(self._set_rate(machine_id))

    async def _set_rate(self, machine_id: uuid.UUID) -> None:
        interval = await self.plane.bus.wished_rate(machine_id)
        connection = self.links.get(machine_id)
        if connection is None:
            return
        if interval is not None:
            self._watching[machine_id] = interval
            await connection.watch(interval, WATCH_LEASE)
        elif self._watching.pop(machine_id, None) is not None:
            # Nobody watches any more: back to the usual rate now, not when the lease ends.
            await connection.watch(SAMPLE_INTERVAL, 0)

    def _fenced(self, message: bytes) -> None:
        machine_id = _machine_id(message)
        if machine_id is not None:
            self._fence(machine_id, int(message.split()[1]))

    def _fence(self, machine_id: uuid.UUID, epoch: int) -> None:
        connection = self.links.get(machine_id)
        if connection is not None and connection.epoch < epoch:
            self._supersede(connection)

    def _supersede(self, connection: AgentConnection) -> None:
        if connection.is_superseded:
            return
        connection.is_superseded = True
        self.run(self._end(connection))

    async def _end(self, connection: AgentConnection) -> None:
        """End a link that is not its machine's newest any more, and see whether its host is there:
        then two hosts use one key."""
        why = await connection.give_way()
        machine_id = connection.machine_id
        if not isinstance(why, Superseded) or machine_id is None:
            return
        if await connection.takes_leave() and self._takeovers.note(machine_id, time.monotonic()):
            log.warning("agent.cloned", machine=connection.machine_name, source=connection.source)
            with contextlib.suppress(*DATABASE_ERRORS):
                await hosts.hold_clones(machine_id)

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Have something done that nobody waits for."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _tick(self) -> None:
        await asyncio.sleep(_TICK)
        now = time.monotonic()
        if now >= self._counted_at + _COUNT_INTERVAL:
            self._counted_at = now
            self.run(self._count_fleet())
        for connection in [one for one, due in self._sockets.items() if now >= due]:
            if connection.is_due(now):
                await connection.tick()
            elif connection in self._sockets:
                self._sockets[connection] = connection.link.next_tick()

    async def _count_fleet(self) -> None:
        with contextlib.suppress(*DATABASE_ERRORS):
            fleet = await Machine.exclude(lifecycle=Lifecycle.RETIRED).count()
            self.retry_spread = self.greetings.spread(fleet)


async def _turn_away(websocket: WebSocket, error: ProtocolError) -> None:
    """Say why, and close: a close frame's reason has room for 123 bytes of it."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        told = Error.saying(error.code, error.message, fatal=True, retry_after=error.retry_after)
        await websocket.send_bytes(encode(told))
        await websocket.close(error.close_code, fit_reason(error.message))


def _machine_id(message: bytes) -> uuid.UUID | None:
    try:
        return uuid.UUID(message.split()[0].decode())
    except (ValueError, IndexError):
        return None

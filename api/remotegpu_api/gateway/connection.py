"""One agent's websocket: a thin shell around the protocol's state machine."""

import asyncio
import contextlib
import secrets
import time
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from remotegpu_api.taking import take_by
from remotegpu_api.websocket_protocol import LEAVE_TAKEN, PEER_LEFT
from remotegpu_core.bus.outlet import Outlet
from remotegpu_core.clock import now_ms
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.errors import RemoteGPUError
from remotegpu_core.models import Machine
from remotegpu_core.services import endings, enrollments, journals, presence
from remotegpu_core.services.events import apply_event
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.journals import Journal
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.close_codes import CloseCode
from remotegpu_protocol.commands import Command, Event
from remotegpu_protocol.errors import (
    AuthenticationFailed,
    EnrollmentConflict,
    EnrollmentRefused,
    KeyInUse,
    Overloaded,
    ProtocolError,
    Revoked,
    Superseded,
)
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.keys import verify_enroll, verify_hello
from remotegpu_protocol.limits import CLOCK_SKEW_TOLERANCE, COMMAND_RETRY, COMMAND_WINDOW
from remotegpu_protocol.messages import Enroll, Error, FromAgent, Heartbeat, Hello
from remotegpu_protocol.metrics import Metrics
from remotegpu_protocol.server_link import ServerLink, ServerState
from remotegpu_protocol.statements import NONCE_BYTES

if TYPE_CHECKING:
    from remotegpu_api.gateway.gateway import Gateway

log = structlog.get_logger()

#: Seconds in which an agent must take what was said last, and the close frame.
CLOSE_TIMEOUT: Final = 2.0

#: How frequent messages begin, after the byte that says how many fields there are. One that begins
#: in another way is read all the same, by the usual way.
_FREQUENT: Final = (b"\xa4type\xa7metrics", b"\xa4type\xa9heartbeat")
_NOTHING: Final[list[bytes]] = []

#: What the services may refuse an enrolment for, by their codes.
_REFUSALS: Final = {kind.code: kind for kind in (EnrollmentRefused, KeyInUse, EnrollmentConflict)}


class AgentConnection:
    """From the handshake to the end. `machine_id` and `epoch` are set once the agent is known.

    `is_superseded` once a newer link of the machine took over: what this one still says is dropped.
    """

    def __init__(self, websocket: WebSocket, gateway: "Gateway", source: str | None) -> None:
        self.machine_id: uuid.UUID | None = None
        self.machine_name = ""
        self.epoch = 0
        self.source = source
        #: Whether the agent keeps a journal; without one it gets no commands.
        self.takes_commands = False
        #: When (monotonic seconds) each command was sent that has no event yet, and each cancel.
        self.sent: dict[uuid.UUID, float] = {}
        self.cancelled: dict[uuid.UUID, float] = {}
        self.is_superseded = False
        #: Holds the place of its greeting until that is over.
        self.greeting = contextlib.ExitStack()
        self.link = ServerLink(
            nonce=secrets.token_bytes(NONCE_BYTES),
            origins=gateway.plane.settings.agent_origins,
            now=time.monotonic(),
            clock=now_ms(),
        )
        self._websocket = websocket
        self._gateway = gateway
        self._plane = gateway.plane
        self._pace = gateway.pace
        self._writer = gateway.plane.bus.writer
        self._outlet: Outlet | None = None
        self._sending = asyncio.Lock()
        self._socket_closed = False
        self._serving: asyncio.Task[None] | None = None
        self._abandoned = False
        #: Sequence of the first event that was heard, applied or not.
        self._first_event: int | None = None
        #: Last sequence of the journal, when the hello did not say what of it was acknowledged.
        self._journal_end: int | None = None
        #: The key that the connection was verified by.
        self._public_key = b""

    @property
    def heard_at(self) -> int:
        """When the agent was last heard, in milliseconds since the Unix epoch."""
        return now_ms() - int((time.monotonic() - self.link.heard_at) * 1000)

    async def serve(self) -> None:
        """Read until either side ends the link."""
        self._serving = asyncio.current_task()
        try:
            await self.flush()
            take_by(self._websocket.scope, self._take)
            await self._read()
        except (WebSocketDisconnect, OSError):
            pass
        except DATABASE_ERRORS as error:
            log.warning("agent.database_away", machine=self.machine_name, error=str(error))
            self.link.refuse(Overloaded("The database is away: try again later."))
        except asyncio.CancelledError:
            if not self._abandoned:
                raise
        finally:
            if not self._abandoned:
                with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
                    await self.flush()
            log.info(
                "agent.disconnected",
                machine=self.machine_name or None,
                epoch=self.epoch or None,
                source=self.source,
                code=self.link.close_code,
                reason=self.link.reason or "the agent closed or vanished",
            )

    async def _read(self) -> None:
        link = self.link
        while link.state is not ServerState.CLOSED:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            frame: bytes | str = event.get("bytes") or event.get("text") or b""
            said = link.receive(frame, now=time.monotonic(), clock=now_ms())
            if said is not None:
                await self._handle(said, frame)
            if not link.is_idle:
                await self.flush()

    def _take(self, frame: bytes) -> list[bytes] | None:
        """Do what a sample or a heartbeat asks for, and answer; None for any other message.

        Nearly everything that agents say, which is why it waits for nobody.
        """
        link = self.link
        if self._writer.is_full or link.state is not ServerState.OPEN:
            return None
        if not frame.startswith(_FREQUENT, 1):
            return None
        pace = self._pace
        pace.took()
        # One that names a second type besides is invalid: nothing else comes out of this.
        said = link.receive(frame, now=pace.now, clock=pace.clock)
        if type(said) is Metrics:
            if self._outlet is not None and not self.is_superseded:
                self._writer.take(self._outlet, link.corrected(said.sampled_at), frame)
        elif type(said) is Heartbeat:
            self._note_presence()
        if link.is_idle:
            return _NOTHING
        if link.close_code is not None:
            # Too much that could not be read.
            self._gateway.run(self._close())
            return _NOTHING
        return link.take_frames()

    async def flush(self) -> None:
        """Send what the link has to say, and close the socket when the link is over."""
        async with self._sending:
            try:
                await self._flush()
            except RuntimeError:
                # The server closed it below us, over a frame that is none.
                raise WebSocketDisconnect(1006) from None

    async def _flush(self) -> None:
        for frame in self.link.take_frames():
            if self._socket_closed:
                return
            await self._websocket.send_bytes(frame)
        if self.link.state is ServerState.CLOSED and not self._socket_closed:
            self._socket_closed = True
            code = self.link.close_code or CloseCode.NORMAL
            await self._websocket.close(code, self.link.close_reason)

    async def give_way(self) -> ProtocolError:
        """End the link, which is not the machine's newest any more, and return why; a dead socket
        does not hold the caller up."""
        error = await self.why_over()
        self.link.refuse(error)
        await self._close()
        return error

    async def why_over(self) -> ProtocolError:
        """Why the link is over; some other connection or an admin raised the machine's epoch."""
        superseded = Superseded("A newer connection of this machine took over.")
        if self.machine_id is None:
            return superseded
        try:
            return await endings.why_over(self.machine_id, self.epoch, self._public_key)
        except DATABASE_ERRORS:
            return superseded

    async def takes_leave(self) -> bool:
        """Whether the host is there: it answers the close of its link."""
        leave: asyncio.Event | None = self._websocket.scope["extensions"].get(LEAVE_TAKEN)
        if leave is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await leave.wait()
        return leave.is_set()

    def is_due(self, now: float) -> bool:
        """Whether `tick` has something to do."""
        return now >= self.link.next_tick() or self.link.state is ServerState.CLOSED

    async def tick(self) -> None:
        """Let the link notice silence."""
        self.link.tick(now=time.monotonic())
        if self.link.state is ServerState.CLOSED and not self._abandoned:
            await self._close()

    async def watch(self, interval: float, lease: float) -> None:
        """Ask the agent for a sample every `interval` seconds, for `lease` seconds."""
        self.link.watch(interval=interval, lease=lease)
        await self._flush_quietly()

    async def _flush_quietly(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self.flush()

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self.flush(), CLOSE_TIMEOUT)
        except TimeoutError:
            # It reads nothing, so it will not take its leave: its silence counts from now on.
            self._abandoned = True
            if self._serving is not None:
                self._serving.cancel()
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass

    async def _handle(self, message: FromAgent, frame: bytes | str) -> None:
        match message:
            case Metrics():
                if not self._sample(message, frame):
                    await self._writer.room()
            case Heartbeat():
                if not self._note_presence():
                    await self._writer.room()
            case Inventory():
                # Just greeted, most of them: it takes longer than the greeting itself.
                async with self._gateway.greetings.turn():
                    await self._inventory(message)
            case Event():
                await self._event(message)
            case Hello():
                await self._greet(self._hello(message))
            case Enroll():
                await self._greet(self._enroll(message))
            case Error():
                log.warning(
                    "agent.complains",
                    machine=self.machine_name,
                    code=message.code,
                    message=message.message,
                )

    async def _greet(self, greeting: Coroutine[Any, Any, None]) -> None:
        """Answer an opening when its turn has come, if its agent is still there."""
        try:
            async with self._gateway.greetings.turn():
                if self.link.state is ServerState.AWAITING_VERDICT and not self._peer_left():
                    await greeting
        finally:
            greeting.close()
            self.greeting.close()

    def _peer_left(self) -> bool:
        left = self._websocket.scope["extensions"].get(PEER_LEFT)
        return left is not None and left()

    async def _hello(self, hello: Hello) -> None:
        try:
            machine = await self._verify(hello)
        except ProtocolError as error:
            log.warning("agent.refused", source=self.source, code=error.code, reason=error.message)
            self.link.refuse(error)
            return
        connected = await presence.connect(
            machine.id,
            self._plane.replica_id,
            agent_version=hello.agent_version,
            boot_id=hello.boot_id,
            # The key that was just checked: a re-enrolment may have replaced it since.
            public_key=bytes(machine.public_key),
            address=self.source,
        )
        if connected is None:
            self.link.refuse(Revoked("This machine was removed; enrol the host again."))
            return
        self.machine_id, self.machine_name = machine.id, machine.name
        self.epoch, self._public_key = connected.epoch, bytes(machine.public_key)
        journal = None
        if hello.journal_id is not None:
            journal = Journal(
                hello.journal_id, hello.last_sequence or 0, hello.acknowledged_sequence
            )
            if journal.acknowledged is None:
                self._journal_end = journal.last_sequence
        await journals.meet(connected.machine, journal)
        self.takes_commands = hello.journal_id is not None
        self._outlet = Outlet(machine.id, self.epoch)
        self.link.welcome(
            epoch=self.epoch,
            machine_name=machine.name,
            clock=now_ms(),
            retry_spread=self._gateway.retry_spread,
        )
        await self._gateway.connected(self)
        self._note_presence()
        log.info(
            "agent.connected",
            machine=machine.name,
            epoch=self.epoch,
            version=hello.agent_version,
            source=self.source,
        )

    async def _verify(self, hello: Hello) -> Machine:
        try:
            machine = await Machine.get_or_none(id=uuid.UUID(hello.machine_id))
        except ValueError:
            machine = None
        if machine is None:
            raise AuthenticationFailed(
                "There is no such machine here. Was the host enrolled with another control "
                "plane, or the machine removed? Enrol it again."
            )
        try:
            verify_hello(hello, public_key=bytes(machine.public_key), nonce=self.link.nonce)
        except AuthenticationFailed:
            await self._refuse_revoked(hello, machine)
            raise
        if machine.lifecycle is Lifecycle.RETIRED:
            raise Revoked(endings.RETIRED)
        return machine

    async def _refuse_revoked(self, hello: Hello, machine: Machine) -> None:
        """Raises Revoked when the hello is signed by a key that the machine had."""
        for public_key in await enrollments.revoked_keys(machine.id):
            with contextlib.suppress(AuthenticationFailed):
                verify_hello(hello, public_key=public_key, nonce=self.link.nonce)
                raise Revoked(endings.REPLACED)

    async def _enroll(self, enroll: Enroll) -> None:
        try:
            verify_enroll(enroll, nonce=self.link.nonce)
            machine = await enrollments.redeem(enroll, source_address=self.source)
        except ProtocolError as error:
            self.link.refuse(error)
        except RemoteGPUError as error:
            log.warning(
                "agent.enrollment_refused",
                source=self.source,
                code=error.code,
                reason=error.message,
            )
            self.link.refuse(_REFUSALS.get(error.code, AuthenticationFailed)(error.message))
        else:
            self.link.enrolled(machine_id=str(machine.id), machine_name=machine.name)
            log.info("agent.enrolled", machine=machine.name, source=self.source)
            await self._gateway.enrolled(machine.id, machine.epoch)

    def _sample(self, metrics: Metrics, frame: bytes | str) -> bool:
        """Send a sample on as it came; False when Redis is behind, and there has to be room."""
        outlet = self._outlet
        if outlet is None or self.is_superseded or isinstance(frame, str):
            return True
        return self._writer.sample(outlet, self.link.corrected(metrics.sampled_at), frame)

    def underway(self, now: float) -> list[uuid.UUID]:
        """Commands that were sent, have no answer yet, and are not to be sent again so soon."""
        return [id_ for id_, at in self.sent.items() if now - at < COMMAND_RETRY]

    def has_room(self, now: float) -> bool:
        """Whether the agent may be sent a command now: another one, or one of before again."""
        return len(self.underway(now)) < COMMAND_WINDOW

    async def command(self, command: Command) -> None:
        """Hand a command over.

        Raises:
            ProtocolError: it cannot be sent; the link goes on.
        """
        self.link.command(command)
        await self._flush_quietly()

    async def cancel(self, command_id: str) -> None:
        """Take a command back, as far as that goes."""
        self.link.cancel(command_id)
        await self._flush_quietly()

    async def _event(self, event: Event) -> None:
        if self.machine_id is None:
            return
        if self._first_event is None:
            self._first_event = event.sequence
        try:
            first = event.sequence == self._first_event
            applied = await apply_event(
                self.machine_id, self.epoch, event, first_of=self._journal_end if first else None
            )
        except DATABASE_ERRORS as error:
            # Not acknowledged, so the agent sends it again.
            log.warning("agent.event_waits", machine=self.machine_name, error=str(error))
            return
        if applied.stale:
            self.link.refuse(await self.why_over())
            return
        if applied.acknowledge is None:
            return
        self.link.acknowledge_events(applied.acknowledge)
        if applied.settled:
            with contextlib.suppress(ValueError):
                self.sent.pop(uuid.UUID(event.command_id), None)
            await self._plane.bus.nudge("event")

    def _note_presence(self) -> bool:
        """Say that the agent is there; False like `_sample`."""
        return self._outlet is None or self._writer.note(self._outlet, now_ms())

    async def _inventory(self, inventory: Inventory) -> None:
        if self.machine_id is None:
            return
        reasons = []
        if abs(self.link.clock_offset) > CLOCK_SKEW_TOLERANCE * 1000:
            reasons.append("The host's clock is wrong; its samples carry our time instead.")
        try:
            applied = await apply_inventory(self.machine_id, self.epoch, inventory, reasons=reasons)
        except DATABASE_ERRORS as error:
            # Not acknowledged, so the agent sends it again; samples go on meanwhile.
            log.warning("agent.inventory_waits", machine=self.machine_name, error=str(error))
            return
        if applied.stale:
            self.link.refuse(await self.why_over())
            return
        for text in applied.refused:
            self.link.reject("HARDWARE_CONFLICT", text)
        self.link.acknowledge_inventory(inventory.revision)
        await self._plane.bus.nudge("inventory")

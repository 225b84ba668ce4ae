"""One viewer's websocket: the protocol's rules around its operations."""

import asyncio
import contextlib
from collections.abc import Hashable
from typing import Any, Final

import structlog
from starlette.types import Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from remotegpu_api.callers import actor_of, bearer_token, ignored_credentials, source_address
from remotegpu_api.departure import departed
from remotegpu_api.live.hub import Hub
from remotegpu_api.live.init_payload import read_init
from remotegpu_api.live.messages import (
    SUBPROTOCOL,
    CloseCode,
    Complete,
    ConnectionInit,
    Ping,
    Pong,
    ProtocolViolation,
    Subscribe,
    connection_ack,
    error_message,
    next_message,
    pong,
    read_message,
)
from remotegpu_api.live.outbox import Outbox, Stuck
from remotegpu_api.live.plans import Plans
from remotegpu_api.live.sender import sender_for
from remotegpu_api.live.subscription import Subscription
from remotegpu_api.origins import Sender, sender_of
from remotegpu_api.preparation import prepare
from remotegpu_api.request import BadRequest, parse_request
from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.errors import LimitExceeded, Overloaded, RemoteGPUError, Unauthenticated
from remotegpu_core.networks import caller_network
from remotegpu_core.services.sign_in import authenticate
from remotegpu_graphql.errors import RequestRefused
from remotegpu_protocol.close_codes import fit_reason

log = structlog.get_logger()

INIT_TIMEOUT: Final = 5.0
MAX_SUBSCRIPTIONS: Final = 20
#: Seconds in which a reader must take at least one message.
PROGRESS_TIMEOUT: Final = 30.0


async def serve_viewer(websocket: WebSocket, send: Send, hub: Hub) -> None:
    """Serve one websocket at /graphql from its handshake to its end.

    `send` is the server's own, past the wrappers that a websocket object puts around it.
    """
    settings = hub.plane.settings
    if sender_of(websocket, settings) is Sender.FOREIGN:
        await websocket.close(1008)
        return
    if SUBPROTOCOL not in websocket.scope.get("subprotocols", []):
        await websocket.accept()
        await websocket.close(CloseCode.SUBPROTOCOL_NOT_ACCEPTABLE, f"This speaks {SUBPROTOCOL}.")
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    with contextlib.ExitStack() as places:
        await Socket(websocket, send, hub, places).serve()
        # One that was told to go and does not read takes its place until it is gone.
        await departed(websocket.scope)


class Socket:
    def __init__(
        self, websocket: WebSocket, send: Send, hub: Hub, places: contextlib.ExitStack
    ) -> None:
        """`places` are given back when the socket has ended."""
        self.hub = hub
        self.outbox = Outbox()
        self.actor: Actor = anonymous(source_address(websocket, hub.plane.settings))
        self.operations: dict[str, Subscription] = {}
        self._websocket = websocket
        self._sender = sender_for(websocket.scope, send)
        self._places = places
        self._arrival = places.enter_context(contextlib.ExitStack())
        self._initialised = False
        self._closed = False
        self._writer: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._init_timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Read until the viewer goes, breaks the protocol, or is closed."""
        settings = self.hub.plane.settings
        self._arrival.enter_context(
            self.hub.arrivals.awaiting(
                caller_network(self.actor.source_address),
                self._init_timed_out,
                total=settings.max_sockets,
                each=settings.max_sockets_per_address,
            )
        )
        loop = asyncio.get_running_loop()
        self._init_timer = loop.call_later(INIT_TIMEOUT, self._init_timed_out)
        try:
            while not self._closed:
                await self._handle(await self._receive())
        except ProtocolViolation as violation:
            log.info(
                "live.protocol_violation",
                code=violation.code,
                reason=violation.message,
                source=self.actor.source_address,
            )
            await self.close(violation.code, violation.message)
        except WebSocketDisconnect:
            pass
        except DATABASE_ERRORS as error:
            log.warning("live.database_away", error=str(error))
            await self.close(CloseCode.TRY_AGAIN_LATER, "The database is away: try again later.")
        finally:
            await self._tear_down()

    def send(self, message: bytes) -> None:
        """Send a message that must arrive; a viewer who takes none is let go."""
        if self._sends(message):
            return
        try:
            self.outbox.put(message)
        except Stuck:
            self.close_soon(CloseCode.TOO_MANY_REQUESTS, "Too slow: read faster or ask for less.")
        self._send_later()

    def send_live(self, slot: Hashable, prefix: bytes, payload: bytes) -> None:
        """Send the newest value of `slot`, now or instead of an older one that still waits."""
        if not self._sends(next_message(prefix, payload)):
            self.outbox.put_live(slot, prefix, payload)
            self._send_later()

    def end(self, operation: Subscription, last_message: bytes) -> None:
        """An operation is over; its id is free again."""
        if self.operations.get(operation.id) is operation:
            del self.operations[operation.id]
        self.send(last_message)

    async def close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop_operations()
        # The server sends the frame behind whatever waits, and waits for nothing itself.
        with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
            await self._websocket.close(code, fit_reason(reason))

    async def rights_changed(self, actor: Actor, plans: Plans) -> None:
        self.actor = actor
        for operation in tuple(self.operations.values()):
            await operation.rights_changed(actor, plans)

    async def _receive(self) -> str | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005)
        text: str | None = message.get("text")
        return text

    async def _handle(self, text: str | None) -> None:
        match read_message(text):
            case ConnectionInit(payload):
                await self._init(payload)
            case Ping(payload):
                self.send(pong(payload))
            case Pong():
                pass
            case Subscribe(operation_id, payload):
                await self._subscribe(operation_id, payload)
            case Complete(operation_id):
                operation = self.operations.pop(operation_id, None)
                if operation is not None:
                    operation.stop()

    async def _init(self, payload: dict[str, Any]) -> None:
        if self._initialised:
            raise ProtocolViolation(CloseCode.TOO_MANY_REQUESTS, "Too many initialisation requests")
        self._initialised = True
        self._end_init_timer()
        settings = self.hub.plane.settings
        ignored: list[str] = []
        try:
            said = read_init(payload, bearer_token(self._websocket))
            async with self.hub.asking:
                if said.token is not None:
                    self.actor = await authenticate(
                        said.token, source_address=self.actor.source_address
                    )
                elif sender_of(self._websocket, settings) is Sender.OURS:
                    self.actor = await actor_of(self._websocket, settings)
                else:
                    raise ProtocolViolation(
                        CloseCode.FORBIDDEN,
                        "Pages of other origins send a token in connection_init.",
                    )
        except Unauthenticated:
            raise ProtocolViolation(CloseCode.FORBIDDEN, "Forbidden") from None
        if self._closed:
            return
        self._take_place()
        if not self.actor.is_signed_in:
            ignored = [*said.ignored, *ignored_credentials(self._websocket, settings)]
        self.hub.sockets.add(self)
        self.send(connection_ack(ignored))

    def _take_place(self) -> None:
        self._arrival.close()
        try:
            self._places.enter_context(self.hub.place_of(self.actor))
        except Overloaded as error:
            raise ProtocolViolation(CloseCode.TRY_AGAIN_LATER, error.message) from None

    def _init_timed_out(self) -> None:
        self.close_soon(CloseCode.INIT_TIMEOUT, "Connection initialisation timeout")

    def _end_init_timer(self) -> None:
        if self._init_timer is not None:
            self._init_timer.cancel()
            self._init_timer = None

    async def _subscribe(self, operation_id: str, payload: dict[str, Any]) -> None:
        if not self._initialised:
            raise ProtocolViolation(CloseCode.UNAUTHORIZED, "Unauthorized")
        if operation_id in self.operations:
            raise ProtocolViolation(
                CloseCode.SUBSCRIBER_EXISTS, f"Subscriber for {operation_id} already exists"
            )
        try:
            asked = parse_request(payload)
        except BadRequest as bad:
            raise ProtocolViolation(CloseCode.BAD_REQUEST, str(bad)) from None
        try:
            self._check_room()
            prepared = await prepare(asked, self.actor, self.hub.plane, self.hub.engine)
        except (RemoteGPUError, RequestRefused) as refused:
            self.send(error_message(operation_id, self.hub.engine.explain(refused)))
            return
        except BadRequest as bad:
            self.send(error_message(operation_id, self.hub.engine.explain(bad.error)))
            return
        subscription = Subscription(self, operation_id, prepared, asked.variables)
        self.operations[operation_id] = subscription
        subscription.start()

    def _check_room(self) -> None:
        if len(self.operations) >= MAX_SUBSCRIPTIONS:
            raise LimitExceeded(
                f"A connection has at most {MAX_SUBSCRIPTIONS} operations at a time: complete "
                "one, or open another connection."
            )
        most = self.hub.plane.settings.max_operations
        if self.hub.running >= most:
            raise Overloaded(f"The server runs {most} operations at most: try again later.")

    def _sends(self, message: bytes) -> bool:
        """Whether nothing is left to do for a message: it is sent, or there is nobody to get it."""
        if self._closed:
            return True
        if self.outbox:
            # It would overtake what waits.
            return False
        try:
            taken = self._sender.offer(message)
        except (WebSocketDisconnect, RuntimeError, OSError):
            # The reader notices too, and tears everything down.
            return True
        if self._sender.is_busy:
            self._send_later()
        return taken

    def _send_later(self) -> None:
        """Have what waits sent. A writer that failed is the last one."""
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="live-writer")

    async def _write(self) -> None:
        """Send what could not be sent at once, until nothing waits."""
        try:
            # What waits goes on waiting until it is taken, also when the transport is free.
            while self._sender.is_busy or self.outbox:
                async with asyncio.timeout(PROGRESS_TIMEOUT):
                    await self._sender.finish()
                message = self.outbox.take()
                if message is not None:
                    self._sender.offer(message)
            self._writer = None
        except TimeoutError:
            self.close_soon(CloseCode.TOO_MANY_REQUESTS, "Nothing was read for 30 seconds.")
        except (WebSocketDisconnect, RuntimeError, OSError):
            # As above.
            pass

    def close_soon(self, code: int, reason: str) -> None:
        """Close without waiting for the other end."""
        if self._closing is None:
            self._closing = asyncio.create_task(self.close(code, reason), name="live-close")

    def _stop_operations(self) -> None:
        for operation in tuple(self.operations.values()):
            operation.stop()
        self.operations.clear()

    async def _tear_down(self) -> None:
        self._closed = True
        self._end_init_timer()
        self.hub.sockets.discard(self)
        self._stop_operations()
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer

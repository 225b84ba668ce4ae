"""The agent's end of a link, without a socket: bytes and times in, bytes and messages out."""

import math
import random
from collections.abc import Callable
from enum import Enum, auto

from msgspec.structs import replace

from remotegpu_protocol.allowance import Allowance
from remotegpu_protocol.close_codes import CloseCode, fit_reason
from remotegpu_protocol.codec import decode_from_server, encode
from remotegpu_protocol.commands import Cancel, Command, Event, EventAck
from remotegpu_protocol.errors import (
    ProtocolError,
    UnexpectedMessage,
    UnknownMessage,
    VersionMismatch,
    close_code_of,
)
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.limits import (
    HEARTBEAT_INTERVAL,
    HELLO_TIMEOUT,
    INVENTORY_RETRY,
    LINK_SILENCE,
    MAX_ERROR_LENGTH,
    MAX_HEARTBEAT_INTERVAL,
    MAX_LINK_SILENCE,
    MAX_RETRY_SPREAD,
    MAX_SAMPLE_INTERVAL,
    MAX_WATCH_LEASE,
    MIN_HEARTBEAT_INTERVAL,
    MIN_SAMPLE_INTERVAL,
    MIN_SILENT_HEARTBEATS,
    REPLY_BURST,
    REPLY_RATE,
    SUPPORTED_VERSIONS,
)
from remotegpu_protocol.messages import (
    Challenge,
    Enroll,
    Enrolled,
    Error,
    FromServer,
    Heartbeat,
    HeartbeatAck,
    Hello,
    InventoryAck,
    WatchRate,
    Welcome,
)
from remotegpu_protocol.metrics import Metrics

#: Makes the first message from the challenge and the host's clock (milliseconds, Unix epoch).
Opening = Callable[[Challenge, int], Hello | Enroll]


class AgentState(Enum):
    AWAITING_CHALLENGE = auto()
    AWAITING_ANSWER = auto()
    OPEN = auto()
    CLOSED = auto()


class AgentLink:
    """One connection, from its challenge to its end.

    `now` is a monotonic clock in seconds, `clock` the wall clock in milliseconds since the Unix
    epoch. The shell feeds frames to `receive`, calls `tick` by `next_tick`, and after every call
    sends what `take_frames` gives. When `state` is CLOSED it closes the socket with `close_code`
    and `close_reason`; once closed, a link stays so.

    Intervals and leases in the messages that `receive` returns lie within the ranges of `limits`,
    whatever the control plane sent.
    """

    def __init__(
        self, opening: Opening, *, now: float, jitter: Callable[[], float] = random.random
    ) -> None:
        self.state = AgentState.AWAITING_CHALLENGE
        self.close_code: int | None = None
        #: Why the link ended: as the close frame has room for it, and in full.
        self.close_reason = ""
        self.reason = ""
        self.welcome: Welcome | None = None
        #: Server's clock minus ours in milliseconds, as last heard.
        self.clock_offset = 0
        self._server_time = (0, now)
        self._opening = opening
        self._jitter = jitter
        self._frames: list[bytes] = []
        self._opened_at = now
        self._heard_at = now
        self._sequence = 0
        self._heartbeat_interval = HEARTBEAT_INTERVAL
        self._link_silence = LINK_SILENCE
        self._next_heartbeat = now
        self._unacknowledged: tuple[Inventory, float] | None = None
        self._opened_with: Hello | Enroll | None = None
        self._replies = Allowance(rate=REPLY_RATE, burst=REPLY_BURST, now=now)

    def receive(self, frame: bytes | str, *, now: float, clock: int) -> list[FromServer]:
        """Take one frame and return the messages that concern the shell, in order.

        A text frame, which a `str` stands for, ends the link like any other that is invalid.
        """
        if self.state is AgentState.CLOSED:
            return []
        self._heard_at = now
        try:
            message = decode_from_server(frame)
            return self._handle(message, now=now, clock=clock)
        except UnknownMessage as error:
            # A newer control plane may say more than we know: tell it, and stay.
            if self._replies.take(now):
                self._send(Error.saying(error.code, error.message))
            return []
        except ProtocolError as error:
            self._send(Error.saying(error.code, error.message, fatal=True))
            self._close(error.close_code, error.message)
            return []

    def tick(self, *, now: float, clock: int) -> None:
        """Do what is due: heartbeats, resending, and giving up on a silent link."""
        if self.state is AgentState.CLOSED:
            return
        if self.state is not AgentState.OPEN:
            if now >= self._opened_at + HELLO_TIMEOUT:
                self._close(
                    CloseCode.HELLO_TIMEOUT,
                    f"The control plane did not finish the greeting within {HELLO_TIMEOUT:g} s.",
                )
            return
        if now >= self._heard_at + self._link_silence:
            self._close(
                CloseCode.GOING_AWAY,
                f"The control plane was silent for {self._link_silence:g} s.",
            )
            return
        if now >= self._next_heartbeat:
            self._heartbeat(now=now, clock=clock)
        if self._unacknowledged is not None:
            inventory, sent_at = self._unacknowledged
            if now >= sent_at + INVENTORY_RETRY:
                self.send_inventory(inventory, now=now)

    def next_tick(self) -> float:
        """When `tick` has something to do, at the latest; never, once the link is closed."""
        if self.state is AgentState.CLOSED:
            return math.inf
        if self.state is not AgentState.OPEN:
            return self._opened_at + HELLO_TIMEOUT
        due = min(self._next_heartbeat, self._heard_at + self._link_silence)
        if self._unacknowledged is not None:
            due = min(due, self._unacknowledged[1] + INVENTORY_RETRY)
        return due

    def send_metrics(self, metrics: Metrics) -> None:
        """Queue a sample; one that is offered while the link is not open is forgotten.

        Raises:
            MessageTooLarge, InvalidMessage: it cannot be sent, and the link goes on; with fewer
                processes every sample fits.
        """
        if self.state is AgentState.OPEN:
            self._send(metrics)

    def send_inventory(self, inventory: Inventory, *, now: float) -> None:
        """Queue an inventory, and again later unless it is acknowledged or replaced.

        Raises:
            MessageTooLarge, InvalidMessage: it cannot be sent; the link goes on.
        """
        if self.state is AgentState.OPEN:
            self._send(inventory)
            # Only now: one that cannot be sent must not come back to be sent again.
            self._unacknowledged = (inventory, now)

    def send_event(self, event: Event) -> bool:
        """Queue an event that is in the journal; False while the link is not open.

        Whoever keeps the journal sends it again until an `EventAck` covers it.

        Raises:
            MessageTooLarge, InvalidMessage: it cannot be sent; the link goes on.
        """
        if self.state is not AgentState.OPEN:
            return False
        self._send(event)
        return True

    def say(self, code: str, message: str) -> None:
        """Tell the control plane why something that it sent cannot be answered; the link goes on."""
        if self.state is AgentState.OPEN:
            self._send(Error.saying(code, message))

    def server_time(self, now: float) -> int:
        """The control plane's clock in milliseconds: as last heard, and what passed since.

        Unlike `clock_offset` it is moved by nobody who sets the host's clock meanwhile.
        """
        server_time, heard_at = self._server_time
        return server_time + round((now - heard_at) * 1000)

    def take_frames(self) -> list[bytes]:
        """What is to be sent, each item one binary websocket frame."""
        frames, self._frames = self._frames, []
        return frames

    def _handle(self, message: FromServer, *, now: float, clock: int) -> list[FromServer]:
        match message:
            case Challenge() if self.state is AgentState.AWAITING_CHALLENGE:
                self._answer(message, now=now, clock=clock)
                return []
            case Welcome() if self._opened_with_a(Hello):
                return [self._open(message, now=now, clock=clock)]
            case Enrolled() if self._opened_with_a(Enroll):
                self._close(CloseCode.NORMAL, "Enrolled.")
                return [message]
            case HeartbeatAck() if self.state is AgentState.OPEN:
                self._hear_clock(message.server_time, now=now, clock=clock)
                return []
            case InventoryAck() if self.state is AgentState.OPEN:
                waiting = self._unacknowledged
                if waiting is not None and waiting[0].revision == message.revision:
                    self._unacknowledged = None
                return [message]
            case WatchRate() if self.state is AgentState.OPEN:
                return [
                    WatchRate(
                        _clamp(message.interval, MIN_SAMPLE_INTERVAL, MAX_SAMPLE_INTERVAL),
                        min(message.lease, MAX_WATCH_LEASE),
                    )
                ]
            case Command() | Cancel() | EventAck() if self.state is AgentState.OPEN:
                return [message]
            case Error():
                if message.fatal:
                    self._close(close_code_of(message.code), message.message)
                return [message]
            case _:
                raise UnexpectedMessage(
                    f"Got a {type(message).__name__} while {self.state.name.lower()}."
                )

    def _opened_with_a(self, kind: type[Hello | Enroll]) -> bool:
        return self.state is AgentState.AWAITING_ANSWER and isinstance(self._opened_with, kind)

    def _answer(self, challenge: Challenge, *, now: float, clock: int) -> None:
        if not set(challenge.versions) & set(SUPPORTED_VERSIONS):
            raise VersionMismatch(
                f"This agent speaks protocol versions {list(SUPPORTED_VERSIONS)}, the control "
                f"plane offers {challenge.versions}: upgrade the older of the two."
            )
        self._opened_with = self._opening(challenge, clock)
        self._send(self._opened_with)
        self.state = AgentState.AWAITING_ANSWER
        self._hear_clock(challenge.server_time, now=now, clock=clock)

    def _open(self, welcome: Welcome, *, now: float, clock: int) -> Welcome:
        if self._opened_with is None or welcome.version not in self._opened_with.versions:
            raise VersionMismatch(
                f"The control plane chose protocol version {welcome.version}, which this agent "
                "did not offer: upgrade the older of the two."
            )
        # The server tunes these; a mistake there must neither make hosts hammer it nor keep them
        # on a dead link.
        heartbeat = _clamp(
            welcome.heartbeat_interval, MIN_HEARTBEAT_INTERVAL, MAX_HEARTBEAT_INTERVAL
        )
        silence = _clamp(welcome.link_silence, heartbeat * MIN_SILENT_HEARTBEATS, MAX_LINK_SILENCE)
        self.welcome = replace(
            welcome,
            heartbeat_interval=heartbeat,
            link_silence=silence,
            sample_interval=_clamp(
                welcome.sample_interval, MIN_SAMPLE_INTERVAL, MAX_SAMPLE_INTERVAL
            ),
            retry_spread=None
            if welcome.retry_spread is None
            else min(welcome.retry_spread, MAX_RETRY_SPREAD),
        )
        self.state = AgentState.OPEN
        self._hear_clock(welcome.server_time, now=now, clock=clock)
        self._heartbeat_interval = heartbeat
        self._link_silence = silence
        self._schedule_heartbeat(now)
        return self.welcome

    def _hear_clock(self, server_time: int, *, now: float, clock: int) -> None:
        self._server_time = (server_time, now)
        self.clock_offset = server_time - clock

    def _heartbeat(self, *, now: float, clock: int) -> None:
        self._sequence += 1
        self._send(Heartbeat(self._sequence, clock))
        self._schedule_heartbeat(now)

    def _schedule_heartbeat(self, now: float) -> None:
        self._next_heartbeat = now + self._heartbeat_interval * (0.9 + 0.2 * self._jitter())

    def _send(
        self, message: Hello | Enroll | Heartbeat | Inventory | Metrics | Event | Error
    ) -> None:
        self._frames.append(encode(message))

    def _close(self, code: int, reason: str) -> None:
        self.state = AgentState.CLOSED
        self.close_code = code
        self.close_reason = fit_reason(reason)
        self.reason = clean_text(reason, MAX_ERROR_LENGTH)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

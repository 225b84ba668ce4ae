"""The control plane's end of a link, without a socket or a database."""

import math
from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from remotegpu_protocol.allowance import Allowance
from remotegpu_protocol.close_codes import CloseCode, fit_reason
from remotegpu_protocol.codec import decode_from_agent, encode
from remotegpu_protocol.commands import Cancel, Command, Event, EventAck
from remotegpu_protocol.errors import (
    AuthenticationFailed,
    InvalidValue,
    ProtocolError,
    UnexpectedMessage,
    UnknownMessage,
    VersionMismatch,
)
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.limits import (
    CLOCK_SKEW_TOLERANCE,
    HEARTBEAT_INTERVAL,
    HELLO_TIMEOUT,
    INVALID_FORGIVEN_RATE,
    LINK_SILENCE,
    MAX_ERROR_LENGTH,
    MAX_INVALID_MESSAGES,
    MESSAGE_BURST,
    MESSAGE_RATE,
    REPLY_BURST,
    REPLY_RATE,
    SAMPLE_INTERVAL,
    SAMPLE_WINDOW,
    SUPPORTED_VERSIONS,
    UNREACHABLE_AFTER,
)
from remotegpu_protocol.messages import (
    Challenge,
    Enroll,
    Enrolled,
    Error,
    FromAgent,
    FromServer,
    Heartbeat,
    HeartbeatAck,
    Hello,
    InventoryAck,
    WatchRate,
    Welcome,
)
from remotegpu_protocol.metrics import Metrics
from remotegpu_protocol.plausibility import (
    check_inventory,
    check_sampled_gpus,
    check_sequences,
)
from remotegpu_protocol.values import MAX_TIMESTAMP


class ServerState(Enum):
    AWAITING_HELLO = auto()
    #: The shell looks up the machine or the token and answers with a verdict.
    AWAITING_VERDICT = auto()
    OPEN = auto()
    CLOSED = auto()


#: Milliseconds.
_TOLERATED: Final = CLOCK_SKEW_TOLERANCE * 1000
_SAMPLE_WINDOW: Final = SAMPLE_WINDOW * 1000


class ServerLink:
    """One agent's connection, from the challenge to its end.

    `now` is a monotonic clock in seconds, `clock` the wall clock in milliseconds since the Unix
    epoch. The shell feeds frames to `receive` and gets back messages that passed every check
    this side can make alone; it answers a Hello or Enroll with `welcome`, `enrolled` or `refuse`.
    Then and after every call it sends what `take_frames` gives. When `state` is CLOSED it closes
    the socket with `close_code` and `close_reason`; once closed, a link stays so, and a verdict
    that comes too late changes nothing: look at `state` after giving it.

    `nonce` is NONCE_BYTES fresh random bytes, `origins` the normalised addresses that agents may
    have dialled.
    """

    def __init__(self, *, nonce: bytes, origins: Collection[str], now: float, clock: int) -> None:
        self.state = ServerState.AWAITING_HELLO
        self.nonce = nonce
        self.close_code: int | None = None
        #: Why the link ended: as the close frame has room for it, and in full.
        self.close_reason = ""
        self.reason = ""
        #: The version in use, once an opening offered one that we speak.
        self.version: int | None = None
        #: Our clock minus the agent's in milliseconds, as last heard.
        self.clock_offset = 0
        self.heard_at = now
        #: Messages dropped because the agent sent more than it may.
        self.dropped = 0
        self._origins = origins
        self._opened_at = now
        self._frames: list[bytes] = []
        self._incoming = Allowance(rate=MESSAGE_RATE, burst=MESSAGE_BURST, now=now)
        self._invalid = Allowance(rate=INVALID_FORGIVEN_RATE, burst=MAX_INVALID_MESSAGES, now=now)
        self._replies = Allowance(rate=REPLY_RATE, burst=REPLY_BURST, now=now)
        self._dropping = False
        self._skew_reported = False
        #: GPUs of the newest inventory, None before the first, and of the last sample in order.
        self._gpus: frozenset[str] | None = None
        self._sampled_gpus: list[str] = []
        self._send(Challenge(nonce, list(SUPPORTED_VERSIONS), clock))

    def receive(self, frame: bytes | str, *, now: float, clock: int) -> FromAgent | None:
        """Take one frame; return its message when the shell has something to do about it.

        A text frame, which a `str` stands for, is invalid like any other that is not msgpack.
        """
        if self.state is ServerState.CLOSED:
            return None
        self.heard_at = now
        if not self._within_rate(now):
            return None
        try:
            message = decode_from_agent(frame)
            if type(message) is Metrics and self.state is ServerState.OPEN:
                # Nearly every message.
                self._check_sample(message, clock)
                return message
            return self._handle(message, clock=clock)
        except UnknownMessage as error:
            if self.state is not ServerState.OPEN:
                self.refuse(error)
            elif self._replies.take(now):
                # A newer agent may say more than we know, and as often as it samples: it is told,
                # and stays.
                self.reject(error.code, error.message)
            return None
        except InvalidValue as error:
            if self.state is not ServerState.OPEN:
                self.refuse(error)
                return None
            # Read, and not believed: a host whose clock was set says so many times a second.
            if self._replies.take(now):
                self.reject(error.code, error.message)
            return None
        except ProtocolError as error:
            if self.state is not ServerState.OPEN or error.close_code == CloseCode.TOO_LARGE:
                self.refuse(error)
            elif self._invalid.take(now):
                self.reject(error.code, error.message)
            else:
                self._send(Error.saying(error.code, error.message, fatal=True))
                self.close(CloseCode.BAD_MESSAGE, "Too many messages that could not be read.")
            return None

    def tick(self, *, now: float) -> None:
        """Close a link whose agent did not say hello, or fell silent."""
        if self.state is ServerState.CLOSED:
            return
        if self.state is not ServerState.OPEN:
            if now >= self._opened_at + HELLO_TIMEOUT:
                missing = "hello" if self.state is ServerState.AWAITING_HELLO else "verdict"
                self.close(
                    CloseCode.HELLO_TIMEOUT, f"No {missing} came within {HELLO_TIMEOUT:g} s."
                )
        elif now >= self.heard_at + UNREACHABLE_AFTER:
            self.close(CloseCode.GOING_AWAY, f"Silent for {UNREACHABLE_AFTER:g} s.")

    def next_tick(self) -> float:
        """When `tick` has something to do, at the latest; never, once the link is closed."""
        if self.state is ServerState.CLOSED:
            return math.inf
        if self.state is ServerState.OPEN:
            return self.heard_at + UNREACHABLE_AFTER
        return self._opened_at + HELLO_TIMEOUT

    def welcome(
        self,
        *,
        epoch: int,
        machine_name: str,
        clock: int,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        link_silence: float = LINK_SILENCE,
        sample_interval: float = SAMPLE_INTERVAL,
        retry_spread: float | None = None,
    ) -> None:
        """The hello holds: open the link, unless it ended while the shell looked it up."""
        if self.state is not ServerState.AWAITING_VERDICT or self.version is None:
            return
        self.state = ServerState.OPEN
        self._send(
            Welcome(
                version=self.version,
                epoch=epoch,
                machine_name=machine_name,
                server_time=clock,
                heartbeat_interval=heartbeat_interval,
                link_silence=link_silence,
                sample_interval=sample_interval,
                retry_spread=retry_spread,
            )
        )
        self._report_skew()

    def enrolled(self, *, machine_id: str, machine_name: str) -> None:
        """The enrolment holds: answer, and end the connection."""
        self._send(Enrolled(machine_id, machine_name))
        self.close(1000, "Enrolled.")

    def refuse(self, error: ProtocolError) -> None:
        """Say why, and close."""
        self._send(
            Error.saying(error.code, error.message, fatal=True, retry_after=error.retry_after)
        )
        self.close(error.close_code, error.message)

    def reject(self, code: str, message: str) -> None:
        """Tell the agent that something it sent was not applied; the link stays."""
        self._send(Error.saying(code, message))

    def acknowledge_inventory(self, revision: int) -> None:
        """Tell the agent that its inventory is applied; only an open link says so."""
        if self.state is ServerState.OPEN:
            self._send(InventoryAck(revision))

    def watch(self, *, interval: float, lease: float) -> None:
        """Ask for a sample every `interval` seconds for `lease` seconds; 0 ends the watch."""
        if self.state is ServerState.OPEN:
            self._send(WatchRate(interval, lease))

    def command(self, command: Command) -> bool:
        """Hand a command over; False while the link is not open.

        Raises:
            MessageTooLarge, InvalidMessage: it cannot be sent; the link goes on.
        """
        if self.state is not ServerState.OPEN:
            return False
        self._send(command)
        return True

    def cancel(self, command_id: str) -> bool:
        """Take a command back, as far as that goes; False while the link is not open."""
        if self.state is not ServerState.OPEN:
            return False
        self._send(Cancel(command_id))
        return True

    def acknowledge_events(self, sequence: int) -> None:
        """Tell the agent that its events up to `sequence` are applied."""
        if self.state is ServerState.OPEN:
            self._send(EventAck(sequence))

    def close(self, code: int, reason: str) -> None:
        """End the link; the shell sends what is left in `take_frames`, then closes the socket."""
        if self.state is not ServerState.CLOSED:
            self.state = ServerState.CLOSED
            self.close_code = code
            self.close_reason = fit_reason(reason)
            self.reason = clean_text(reason, MAX_ERROR_LENGTH)

    def corrected(self, agent_clock: int) -> int:
        """A time of the agent's on our clock; left alone while the two clocks agree."""
        if -_TOLERATED <= self.clock_offset <= _TOLERATED:
            return agent_clock
        return min(max(0, agent_clock + self.clock_offset), MAX_TIMESTAMP)

    @property
    def is_idle(self) -> bool:
        """Whether the shell has nothing to send, and no socket to close."""
        return not self._frames and self.state is not ServerState.CLOSED

    def take_frames(self) -> list[bytes]:
        """What is to be sent, each item one binary websocket frame."""
        frames, self._frames = self._frames, []
        return frames

    def _handle(self, message: FromAgent, *, clock: int) -> FromAgent | None:
        match message:
            case Hello() | Enroll() if self.state is ServerState.AWAITING_HELLO:
                self._check_opening(message)
                if isinstance(message, Hello):
                    self.clock_offset = clock - message.clock
                self.state = ServerState.AWAITING_VERDICT
                return message
            case Heartbeat() if self.state is ServerState.OPEN:
                self.clock_offset = clock - message.clock
                self._send(HeartbeatAck(message.sequence, clock))
                self._report_skew()
                return message
            case Inventory() if self.state is ServerState.OPEN:
                check_inventory(message)
                self._gpus = frozenset(gpu.uuid for gpu in message.gpus)
                self._sampled_gpus = []
                return message
            case Event() if self.state is ServerState.OPEN:
                return message
            case Error():
                if message.fatal:
                    self.close(CloseCode.GOING_AWAY, message.message)
                return message
            case _:
                raise UnexpectedMessage(
                    f"Got a {type(message).__name__} while {self.state.name.lower()}."
                )

    def _check_sample(self, metrics: Metrics, clock: int) -> None:
        distance = self.corrected(metrics.sampled_at) - clock
        if not -_SAMPLE_WINDOW <= distance <= _SAMPLE_WINDOW:
            raise InvalidValue(
                f"sampled_at: expected a time within {SAMPLE_WINDOW:g} s of this host's clock as "
                f"its last hello or heartbeat told it, got one {abs(distance) // 1000} s "
                f"{'after' if distance > 0 else 'before'} it."
            )
        uuids = [gpu.uuid for gpu in metrics.gpus]
        # The same ones each time, for as long as nothing is wrong.
        if uuids != self._sampled_gpus:
            check_sampled_gpus(uuids, self._gpus)
            self._sampled_gpus = uuids

    def _check_opening(self, message: Hello | Enroll) -> None:
        self.version = next((v for v in SUPPORTED_VERSIONS if v in message.versions), None)
        if self.version is None:
            raise VersionMismatch(
                f"This control plane speaks protocol versions {list(SUPPORTED_VERSIONS)}, the "
                f"agent offers {message.versions}: upgrade the older of the two."
            )
        if isinstance(message, Hello):
            check_sequences(message.last_sequence, message.acknowledged_sequence)
        if message.origin not in self._origins:
            raise AuthenticationFailed(
                f"The agent dialled {message.origin}; this control plane is "
                f"{' or '.join(sorted(self._origins))}. Dial that address, or add yours to "
                "REMOTEGPU_PUBLIC_URL or REMOTEGPU_AGENT_URLS."
            )

    def _within_rate(self, now: float) -> bool:
        if self._incoming.take(now):
            self._dropping = False
            return True
        self.dropped += 1
        if not self._dropping and self._replies.take(now):
            self.reject(
                "RATE_LIMITED",
                f"More than {MESSAGE_RATE:g} messages a second came; those beyond are dropped.",
            )
        self._dropping = True
        return False

    def _report_skew(self) -> None:
        skewed = abs(self.clock_offset) > CLOCK_SKEW_TOLERANCE * 1000
        if skewed and not self._skew_reported:
            seconds = self.clock_offset / 1000
            direction = "behind" if seconds > 0 else "ahead of"
            self._send(
                Error.saying(
                    "CLOCK_SKEW",
                    f"This host's clock is {abs(seconds):.0f} s {direction} the control plane's. "
                    "Samples are stamped with the control plane's time; set up NTP here.",
                )
            )
        self._skew_reported = skewed

    def _send(self, message: FromServer) -> None:
        if self.state is not ServerState.CLOSED:
            self._frames.append(encode(message))

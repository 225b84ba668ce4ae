"""The control plane's half of commands, as small as it can be and strict about what it hears."""

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field

import msgspec
from websockets.exceptions import ConnectionClosed

from remotegpu_protocol.commands import Command, Event, EventState
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    ALLOCATION_UPDATE,
    AllocationEnd,
    AllocationStart,
    AllocationUpdate,
    pack_arguments,
)
from remotegpu_protocol.messages import Error, FromAgent, Hello
from remotegpu_protocol.server_link import ServerState
from tests.agent.control_plane import ControlPlane, Peer

HOUR_MS = 3_600_000


@dataclass
class Commander:
    """Sends commands until they are accepted, applies events in their order, acknowledges.

    `applied` holds each event once. `twice` counts those that came again, `early` those that came
    before the one that is missing; `jumps` names gaps at the start of a connection.
    """

    plane: ControlPlane
    acknowledges: bool = True
    #: Events that get lost when they come for the first time, as beyond the rate of messages.
    lost: set[int] = field(default_factory=set)
    given: dict[str, Command] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    applied: list[Event] = field(default_factory=list)
    journals: list[tuple[str | None, int | None]] = field(default_factory=list)
    errors: list[Error] = field(default_factory=list)
    twice: int = 0
    early: int = 0
    jumps: list[tuple[int, int]] = field(default_factory=list)
    _last: int = 0
    _heard: dict[int, int] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.plane.listeners.append(self._listen)

    def start(self, allocation: str = "allocation-1", **changes: object) -> Command:
        # Each allocation has GPUs of its own: a host refuses what overlaps.
        gpus = [f"GPU-1-of-{allocation}"]
        arguments = AllocationStart(allocation, "ada", False, gpus, self.plane.clock + HOUR_MS)
        packed = pack_arguments(ALLOCATION_START, arguments)
        return self._command(ALLOCATION_START.name, packed, allocation, changes)

    def update(self, allocation: str = "allocation-1", **changes: object) -> Command:
        gpus = [f"GPU-2-of-{allocation}"]
        arguments = AllocationUpdate(allocation, gpus, self.plane.clock + 2 * HOUR_MS)
        packed = pack_arguments(ALLOCATION_UPDATE, arguments)
        return self._command(ALLOCATION_UPDATE.name, packed, allocation, changes)

    def end(self, allocation: str = "allocation-1", **changes: object) -> Command:
        packed = pack_arguments(ALLOCATION_END, AllocationEnd(allocation))
        return self._command(ALLOCATION_END.name, packed, allocation, changes)

    async def give(self, *commands: Command) -> None:
        """Send them over the link that is open, and again over every new one until accepted."""
        for command in commands:
            self.given[command.id] = command
        peer = self._open_peer()
        if peer is not None:
            for command in commands:
                peer.link.command(command)
            await _flush(peer)

    async def cancel(self, command: Command) -> None:
        self.cancelled.add(command.id)
        peer = self._open_peer()
        if peer is not None:
            peer.link.cancel(command.id)
            await _flush(peer)

    async def acknowledge(self) -> None:
        """Acknowledge what is applied, and from now on at once."""
        self.acknowledges = True
        peer = self._open_peer()
        if peer is not None:
            peer.link.acknowledge_events(self._last)
            await _flush(peer)

    async def outcome(self, command: Command) -> Event:
        """The event that ends the command."""
        return (await self.plane.until(lambda: [e for e in self.of(command) if e.state.is_end]))[0]

    async def reached(self, command: Command, state: EventState) -> Event:
        return (await self.plane.until(lambda: [e for e in self.of(command) if e.state is state]))[
            0
        ]

    def of(self, command: Command) -> list[Event]:
        return [event for event in self.applied if event.command_id == command.id]

    def states(self, command: Command) -> list[str]:
        """States in their order, progress left out."""
        states = [event.state.value for event in self.of(command)]
        return [state for state, _ in itertools.groupby(states)]

    def check(self) -> None:
        """No event lost, none applied twice."""
        assert [event.sequence for event in self.applied] == list(range(1, self._last + 1))
        assert self.jumps == []

    async def settle(self, seconds: float = 0.3) -> None:
        """Time for what must not come."""
        await asyncio.sleep(seconds)

    def _command(
        self, kind: str, arguments: bytes, allocation: str, changes: dict[str, object]
    ) -> Command:
        number = next(self._numbers)
        command = Command(
            f"command-{number}", number, kind, arguments, self.plane.clock + HOUR_MS, allocation, 1
        )
        return msgspec.structs.replace(command, **changes)

    def _open_peer(self) -> Peer | None:
        peers = [peer for peer in self.plane.peers if peer.link.state is ServerState.OPEN]
        return peers[-1] if peers and not peers[-1].closed.is_set() else None

    def _listen(self, peer: Peer, message: FromAgent) -> None:
        match message:
            case Hello():
                self.journals.append((message.journal_id, message.last_sequence))
                self._send_again(peer)
            case Event():
                self._apply(peer, message)
            case Error():
                self.errors.append(message)
            case _:
                pass

    def _send_again(self, peer: Peer) -> None:
        answered = {event.command_id for event in self.applied}
        ended = {event.command_id for event in self.applied if event.state.is_end}
        for command in self.given.values():
            if command.id not in answered:
                peer.link.command(command)
        for command_id in self.cancelled - ended:
            peer.link.cancel(command_id)

    def _apply(self, peer: Peer, event: Event) -> None:
        if event.sequence in self.lost:
            self.lost.discard(event.sequence)
            return
        first = self._heard.setdefault(id(peer), event.sequence) == event.sequence
        if event.sequence <= self._last:
            self.twice += 1
        elif event.sequence == self._last + 1 or first:
            if event.sequence != self._last + 1:
                self.jumps.append((self._last, event.sequence))
            self.applied.append(event)
            self._last = event.sequence
        else:
            self.early += 1
        if self.acknowledges:
            peer.link.acknowledge_events(self._last)


async def _flush(peer: Peer) -> None:
    # An agent that was just killed: what it did not get goes over the next link.
    with contextlib.suppress(ConnectionClosed):
        await peer.flush()

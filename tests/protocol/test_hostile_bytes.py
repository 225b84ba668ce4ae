"""Whatever comes in, neither end raises, grows without bound or wakes up from being closed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.limits import MAX_INVALID_MESSAGES, REPLY_BURST, REPLY_RATE
from remotegpu_protocol.messages import Enroll, Hello
from remotegpu_protocol.server_link import ServerLink, ServerState
from tests.protocol.instruments import (
    HandClock,
    Wire,
    enroll_opening,
    hello_opening,
    inventory,
    sample,
)
from tests.protocol.shapes import MESSAGES, struct_info, trees

#: Bytes of the largest answer: an error whose every character takes four bytes, and its frame.
LARGEST_ANSWER = 2000 * 4 + 100


def _conversation(wire: Wire) -> tuple[list[bytes], list[bytes]]:
    wire.pump()
    wire.agent.send_inventory(inventory(1), now=wire.clock.now)
    wire.agent.send_metrics(sample(wire.agent_wall))
    wire.server.watch(interval=0.5, lease=30.0)
    wire.server.reject("CODE", "A message.")
    wire.run(11)
    return [frame for _, frame in wire.to_agent], [frame for _, frame in wire.to_server]


TO_AGENT, TO_SERVER = _conversation(Wire(skew=3_600_000))
ENROLL_TO_AGENT, ENROLL_TO_SERVER = _conversation(Wire(opening=enroll_opening()))


@dataclass(frozen=True)
class Delivery:
    """A frame, and the seconds that pass before it."""

    frame: bytes
    wait: float


Change = Callable[[bytes, int, int], bytes]
CHANGES: tuple[Change, ...] = (
    lambda frame, at, bit: frame,
    lambda frame, at, bit: frame[: at % (len(frame) + 1)],
    lambda frame, at, bit: frame[at % (len(frame) + 1) :],
    lambda frame, at, bit: _flip(frame, at % len(frame), bit),
    lambda frame, at, bit: frame + bytes([bit]),
    lambda frame, at, bit: frame * 2,
    lambda frame, at, bit: frame[: at % len(frame)] + b"\xff" + frame[at % len(frame) + 1 :],
)


def _flip(frame: bytes, at: int, bit: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ (1 << bit)]) + frame[at + 1 :]


WAITS = st.sampled_from([0.0, 0.0, 0.0, 0.01, 1.0, 5.0, 9.0, 100.0, -1.0])


def deliveries(frames: Sequence[bytes]) -> st.SearchStrategy[list[Delivery]]:
    """A valid conversation with frames lost, doubled, moved, cut and with bits turned over."""
    changed = st.builds(
        lambda change, frame, at, bit: change(frame, at, bit),
        st.sampled_from(CHANGES),
        st.sampled_from(frames),
        st.integers(min_value=0, max_value=500),
        st.integers(min_value=0, max_value=7),
    )
    shapes = [trees(struct_info(message)).map(msgpack.encode) for message in MESSAGES]
    anything = st.binary(max_size=60) | changed | changed | st.one_of(shapes)
    opened = st.builds(
        lambda length, rest: [Delivery(f, 0.0) for f in frames[:length]] + rest,
        st.integers(min_value=0, max_value=len(frames)),
        st.lists(st.builds(Delivery, anything, WAITS), max_size=30),
    )
    shuffled = st.permutations(frames).map(lambda moved: [Delivery(f, 0.0) for f in moved])
    return opened | opened | shuffled


@settings(max_examples=120, deadline=None)
@given(
    case=st.one_of(
        deliveries(TO_AGENT).map(lambda found: (hello_opening(), found)),
        deliveries(ENROLL_TO_AGENT).map(lambda found: (enroll_opening(), found)),
    )
)
def test_an_agent_survives_any_bytes(
    case: tuple[Callable[..., Hello | Enroll], list[Delivery]],
) -> None:
    opening, incoming = case
    clock = HandClock()
    link = AgentLink(opening, now=clock.now, jitter=lambda: 0.5)
    sent = 0
    ended: tuple[int | None, str] | None = None
    for delivery in incoming:
        clock.advance(delivery.wait)
        link.tick(now=clock.now, clock=clock.wall)
        link.receive(delivery.frame, now=clock.now, clock=clock.wall)
        frames = link.take_frames()
        if ended is not None:
            assert not frames
            assert (link.close_code, link.close_reason) == ended
            assert link.state is AgentState.CLOSED
        elif link.state is AgentState.CLOSED:
            ended = (link.close_code, link.close_reason)
            assert link.close_code is not None
        # An answer, a heartbeat, and an inventory that is due again.
        assert len(frames) <= 3
        assert all(len(frame) <= LARGEST_ANSWER for frame in frames)
        sent += len(frames)
    assert sent <= len(incoming) + 3


@settings(max_examples=120, deadline=None)
@given(
    incoming=deliveries(TO_SERVER) | deliveries(ENROLL_TO_SERVER),
    verdict=st.sampled_from(["welcome", "enrolled", "late", "none"]),
)
def test_a_server_survives_any_bytes(incoming: list[Delivery], verdict: str) -> None:
    wire = Wire()
    link = wire.server
    clock = wire.clock
    link.take_frames()
    ended: tuple[int | None, str] | None = None
    for delivery in incoming:
        clock.advance(delivery.wait)
        link.tick(now=clock.now)
        message = link.receive(delivery.frame, now=clock.now, clock=clock.wall)
        if isinstance(message, Hello | Enroll) or verdict == "late":
            _give(verdict, link, clock)
        frames = link.take_frames()
        if ended is not None:
            assert not frames
            assert (link.close_code, link.close_reason) == ended
            assert link.state is ServerState.CLOSED
        elif link.state is ServerState.CLOSED:
            ended = (link.close_code, link.close_reason)
            assert link.close_code is not None
        # An answer, the welcome and the word on the clock.
        assert len(frames) <= 3
        assert all(len(frame) <= LARGEST_ANSWER for frame in frames)


def _give(verdict: str, link: ServerLink, clock: HandClock) -> None:
    if verdict in {"welcome", "late"}:
        link.welcome(epoch=1, machine_name="node-1", clock=clock.wall)
    elif verdict == "enrolled":
        link.enrolled(machine_id="m", machine_name="node-1")


@settings(max_examples=30, deadline=None)
@given(frames=st.lists(st.binary(max_size=20), min_size=1, max_size=5), gap=st.floats(0, 0.05))
def test_what_an_open_server_answers_to_a_flood_is_bounded(frames: list[bytes], gap: float) -> None:
    wire = Wire().pump()
    started = wire.clock.now
    for turn in range(400):
        wire.clock.advance(gap)
        wire.server.receive(frames[turn % len(frames)], now=wire.clock.now, clock=wire.clock.wall)
    told = wire.server.take_frames()
    elapsed = wire.clock.now - started
    assert len(told) <= MAX_INVALID_MESSAGES + 1 + REPLY_BURST + REPLY_RATE * elapsed + 1
    assert sum(map(len, told)) <= 400 * 500

import math
from itertools import pairwise

import msgspec
import pytest
from msgspec.structs import replace

from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.close_codes import CloseCode
from remotegpu_protocol.codec import decode_from_agent, encode
from remotegpu_protocol.errors import InvalidMessage, InvalidValue, MessageTooLarge
from remotegpu_protocol.inventory import HostInventory, Inventory
from remotegpu_protocol.limits import (
    HELLO_TIMEOUT,
    INVENTORY_RETRY,
    MAX_MESSAGE_BYTES,
    MAX_WATCH_LEASE,
    MIN_HEARTBEAT_INTERVAL,
    REPLY_BURST,
)
from remotegpu_protocol.messages import (
    Challenge,
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
from tests.protocol.instruments import (
    NONCE,
    HandClock,
    enroll_opening,
    hello_opening,
    inventory,
    sample,
)

CHALLENGE = Challenge(nonce=NONCE, versions=[1], server_time=1_800_000_000_000)
WELCOME = Welcome(
    version=1,
    epoch=7,
    machine_name="node-1",
    server_time=1_800_000_000_000,
    heartbeat_interval=5.0,
    link_silence=8.0,
    sample_interval=5.0,
)


class Agent:
    """An agent's link and its clock, fed by hand."""

    def __init__(self, *, jitter: float = 0.5, enrolling: bool = False) -> None:
        self.clock = HandClock()
        opening = enroll_opening() if enrolling else hello_opening()
        self.link = AgentLink(opening, now=self.clock.now, jitter=lambda: jitter)

    def hears(self, message: FromServer) -> list[FromServer]:
        return self.reads(encode(message))

    def reads(self, frame: bytes | str) -> list[FromServer]:
        return self.link.receive(frame, now=self.clock.now, clock=self.clock.wall)

    def waits(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.link.tick(now=self.clock.now, clock=self.clock.wall)

    def is_in(self, state: AgentState) -> bool:
        return self.link.state is state

    def says(self) -> list[FromAgent]:
        return [decode_from_agent(frame) for frame in self.link.take_frames()]

    def opened(self, welcome: Welcome = WELCOME) -> "Agent":
        self.hears(CHALLENGE)
        self.hears(welcome)
        self.link.take_frames()
        assert self.is_in(AgentState.OPEN)
        return self


def test_it_says_nothing_before_the_challenge() -> None:
    agent = Agent()
    agent.waits(HELLO_TIMEOUT - 0.1)
    assert agent.says() == []
    assert agent.is_in(AgentState.AWAITING_CHALLENGE)


def test_greeting() -> None:
    agent = Agent()

    assert agent.hears(CHALLENGE) == []
    (hello,) = agent.says()
    assert isinstance(hello, Hello)
    assert agent.is_in(AgentState.AWAITING_ANSWER)

    assert agent.hears(WELCOME) == [WELCOME]
    assert agent.says() == []
    assert agent.is_in(AgentState.OPEN)
    assert agent.link.welcome == WELCOME


def test_enrolment_ends_the_connection() -> None:
    agent = Agent(enrolling=True)
    agent.hears(CHALLENGE)
    enrolled = Enrolled("machine", "node-1")

    assert agent.hears(enrolled) == [enrolled]
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_code == CloseCode.NORMAL


@pytest.mark.parametrize("enrolling", [False, True])
@pytest.mark.parametrize("challenged", [False, True])
def test_a_greeting_that_is_not_finished_in_time(enrolling: bool, challenged: bool) -> None:
    agent = Agent(enrolling=enrolling)
    if challenged:
        agent.hears(CHALLENGE)
    assert agent.link.next_tick() == agent.clock.now + HELLO_TIMEOUT
    agent.waits(HELLO_TIMEOUT - 0.01)
    assert not agent.is_in(AgentState.CLOSED)
    agent.waits(0.01)
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_code == CloseCode.HELLO_TIMEOUT


@pytest.mark.parametrize(("jitter", "interval"), [(0.0, 4.5), (0.5, 5.0), (0.999, 5.4999)])
def test_heartbeats_keep_within_their_jitter(jitter: float, interval: float) -> None:
    agent = Agent(jitter=jitter).opened()
    for sequence in range(1, 6):
        assert agent.link.next_tick() - agent.clock.now == pytest.approx(interval, abs=1e-3)
        agent.waits(interval - 0.01)
        assert agent.says() == []
        agent.waits(0.02)
        assert agent.says() == [Heartbeat(sequence, agent.clock.wall)]
        agent.hears(HeartbeatAck(sequence, agent.clock.wall))


def test_real_jitter_spreads_heartbeats() -> None:
    clock = HandClock()
    link = AgentLink(hello_opening(), now=clock.now)
    link.receive(encode(CHALLENGE), now=clock.now, clock=clock.wall)
    link.receive(encode(WELCOME), now=clock.now, clock=clock.wall)
    link.take_frames()
    beats = [clock.now]
    while len(beats) < 200:
        clock.advance(link.next_tick() - clock.now)
        link.tick(now=clock.now, clock=clock.wall)
        if link.take_frames():
            beats.append(clock.now)
        link.receive(encode(HeartbeatAck(1, clock.wall)), now=clock.now, clock=clock.wall)
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert 4.5 <= min(gaps) < 4.7
    assert 5.3 < max(gaps) <= 5.5 + 1e-6


def test_a_silent_control_plane_is_left() -> None:
    agent = Agent().opened()
    agent.waits(7.9)
    assert agent.is_in(AgentState.OPEN)
    agent.waits(0.1)
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_code == CloseCode.GOING_AWAY
    assert "8 s" in agent.link.close_reason


def test_anything_heard_ends_the_silence() -> None:
    agent = Agent().opened()
    for _ in range(10):
        agent.waits(7.9)
        agent.reads(msgspec.msgpack.encode({"type": "from the future"}))
    assert agent.is_in(AgentState.OPEN)


def test_an_inventory_is_sent_until_it_is_acknowledged() -> None:
    agent = Agent().opened(welcome_with(link_silence=300.0, heartbeat_interval=60.0))
    agent.link.send_inventory(inventory(1), now=agent.clock.now)
    assert agent.says() == [inventory(1)]
    assert agent.link.next_tick() == agent.clock.now + INVENTORY_RETRY
    agent.waits(INVENTORY_RETRY - 0.01)
    assert agent.says() == []
    agent.waits(0.01)
    assert agent.says() == [inventory(1)]

    assert agent.hears(InventoryAck(1)) == [InventoryAck(1)]
    agent.waits(INVENTORY_RETRY * 1.5)
    assert agent.says() == []


def test_a_newer_inventory_takes_the_place_of_the_older() -> None:
    agent = Agent().opened(welcome_with(link_silence=300.0, heartbeat_interval=60.0))
    agent.link.send_inventory(inventory(1), now=agent.clock.now)
    agent.link.send_inventory(inventory(2), now=agent.clock.now)
    assert agent.says() == [inventory(1), inventory(2)]

    agent.hears(InventoryAck(1))  # of no use any more: 2 is what must arrive
    agent.waits(INVENTORY_RETRY)
    assert agent.says() == [inventory(2)]


def test_an_inventory_that_cannot_be_sent_does_not_come_back() -> None:
    agent = Agent().opened(welcome_with(link_silence=300.0, heartbeat_interval=60.0))
    broken = Inventory(1, HostInventory(hostname="\ud800"), [])
    with pytest.raises(InvalidMessage, match="clean_text"):
        agent.link.send_inventory(broken, now=agent.clock.now)
    agent.waits(INVENTORY_RETRY * 2)
    assert agent.says() == []
    assert agent.is_in(AgentState.OPEN)


def test_samples_go_out_while_the_link_is_open_only() -> None:
    agent = Agent()
    agent.link.send_metrics(sample(1))
    agent.link.send_inventory(inventory(), now=agent.clock.now)
    assert agent.says() == []
    agent.opened()
    agent.link.send_metrics(sample(2))
    assert agent.says() == [sample(2)]
    agent.waits(60)
    agent.link.send_metrics(sample(3))
    agent.link.send_inventory(inventory(), now=agent.clock.now)
    assert agent.says() == []


def test_a_sample_that_is_too_large_is_refused_and_the_link_goes_on() -> None:
    agent = Agent().opened()
    with pytest.raises(MessageTooLarge):
        agent.link.send_metrics(sample(1, gpus=64, processes=128))
    assert agent.says() == []
    agent.link.send_metrics(sample(2, gpus=64, processes=8))
    assert agent.says() == [sample(2, gpus=64, processes=8)]


def welcome_with(
    *,
    heartbeat_interval: float = 5.0,
    link_silence: float = 8.0,
    sample_interval: float = 5.0,
    version: int = 1,
) -> Welcome:
    return Welcome(
        version=version,
        epoch=7,
        machine_name="node-1",
        server_time=1_800_000_000_000,
        heartbeat_interval=heartbeat_interval,
        link_silence=link_silence,
        sample_interval=sample_interval,
    )


@pytest.mark.parametrize("asked", [0.0, 1e-300, 0.01])
def test_no_control_plane_makes_it_hammer(asked: float) -> None:
    agent = Agent().opened(
        welcome_with(heartbeat_interval=asked, link_silence=asked, sample_interval=asked)
    )
    assert agent.link.welcome is not None
    assert agent.link.welcome.sample_interval == 0.1
    for _ in range(1000):  # ten seconds, each frame answered
        agent.waits(0.01)
        agent.hears(HeartbeatAck(1, agent.clock.wall))
    assert agent.is_in(AgentState.OPEN)
    assert 80 <= len(agent.says()) <= 10 / (0.9 * MIN_HEARTBEAT_INTERVAL)


def test_no_control_plane_keeps_it_on_a_dead_link() -> None:
    agent = Agent().opened(
        welcome_with(heartbeat_interval=1e15, link_silence=1e15, sample_interval=1e15)
    )
    assert agent.link.welcome is not None
    assert agent.link.welcome.sample_interval == 3600.0
    agent.waits(66.1)
    assert [type(message) for message in agent.says()] == [Heartbeat]
    agent.waits(300)
    assert agent.is_in(AgentState.CLOSED)


def test_silence_is_never_shorter_than_the_heartbeats_need() -> None:
    agent = Agent().opened(welcome_with(heartbeat_interval=10.0, link_silence=1.0))
    agent.waits(14.9)
    assert agent.is_in(AgentState.OPEN)
    agent.waits(0.1)
    assert agent.is_in(AgentState.CLOSED)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ((0.5, 30.0), (0.5, 30.0)),
        ((0.0, 0.0), (0.1, 0.0)),
        ((1e-9, 1e15), (0.1, MAX_WATCH_LEASE)),
        ((1e15, 1.0), (3600.0, 1.0)),
    ],
)
def test_watch_rates_are_kept_within_bounds(
    asked: tuple[float, float], kept: tuple[float, float]
) -> None:
    assert Agent().opened().hears(WatchRate(*asked)) == [WatchRate(*kept)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_rates_that_are_no_numbers_end_the_link(value: float) -> None:
    for bad in (WatchRate(value, 30.0), WatchRate(1.0, value)):
        agent = Agent().opened()
        assert agent.hears(bad) == []
        assert agent.link.close_code == CloseCode.BAD_MESSAGE
    agent = Agent()
    agent.hears(CHALLENGE)
    agent.hears(welcome_with(heartbeat_interval=value))
    assert agent.link.close_code == CloseCode.BAD_MESSAGE


def test_unknown_types_are_answered_and_survived() -> None:
    agent = Agent().opened()
    assert agent.reads(msgspec.msgpack.encode({"type": "stream_open", "id": "c1"})) == []
    (answer,) = agent.says()
    assert isinstance(answer, Error)
    assert (answer.code, answer.fatal) == ("UNKNOWN_MESSAGE", False)
    assert "'stream_open'" in answer.message
    assert agent.is_in(AgentState.OPEN)


def test_a_flood_of_unknown_types_is_answered_in_measure() -> None:
    agent = Agent().opened()
    frame = msgspec.msgpack.encode({"type": "x"})
    for _ in range(10_000):
        agent.reads(frame)
    assert len(agent.says()) == REPLY_BURST
    agent.clock.advance(1.0)
    for _ in range(10):
        agent.reads(frame)
    assert len(agent.says()) == 1
    assert agent.is_in(AgentState.OPEN)


@pytest.mark.parametrize("stage", ["challenge", "answer", "open"])
@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff",
        b"\xc1",
        "{}",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode({"type": "welcome"}),
        b"\x91" * 1000,
        encode(Error("CODE", "xx")).replace(b"xx", b"\xff\xff"),
    ],
    ids=range(8),
)
def test_what_cannot_be_read_ends_the_link(frame: bytes | str, stage: str) -> None:
    agent = Agent()
    if stage != "challenge":
        agent.hears(CHALLENGE)
    if stage == "open":
        agent.hears(WELCOME)
    agent.link.take_frames()

    assert agent.reads(frame) == []

    (answer,) = agent.says()
    assert isinstance(answer, Error)
    assert (answer.code, answer.fatal) == ("INVALID_MESSAGE", True)
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_code == CloseCode.BAD_MESSAGE


def test_an_oversized_frame_ends_the_link() -> None:
    agent = Agent().opened()
    agent.reads(bytes(MAX_MESSAGE_BYTES + 1))
    assert agent.link.close_code == CloseCode.TOO_LARGE


@pytest.mark.parametrize(
    "message",
    [WELCOME, Enrolled("m", "n"), HeartbeatAck(1, 1), InventoryAck(1), WatchRate(1.0, 1.0)],
    ids=lambda message: type(message).__name__,
)
def test_nothing_but_a_challenge_comes_first(message: FromServer) -> None:
    agent = Agent()
    assert agent.hears(message) == []
    (answer,) = agent.says()
    assert isinstance(answer, Error)
    assert answer.code == "UNEXPECTED_MESSAGE"
    assert type(message).__name__ in answer.message
    assert agent.link.close_code == CloseCode.BAD_MESSAGE


@pytest.mark.parametrize(
    ("enrolling", "message"),
    [
        (False, CHALLENGE),
        (False, Enrolled("stolen", "n")),
        (False, HeartbeatAck(1, 1)),
        (False, InventoryAck(1)),
        (False, WatchRate(1.0, 1.0)),
        (True, CHALLENGE),
        (True, WELCOME),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_the_answer_to_its_opening_comes_next(enrolling: bool, message: FromServer) -> None:
    agent = Agent(enrolling=enrolling)
    agent.hears(CHALLENGE)
    assert agent.hears(message) == []
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_code == CloseCode.BAD_MESSAGE


@pytest.mark.parametrize(
    "message", [CHALLENGE, WELCOME, Enrolled("m", "n")], ids=lambda m: type(m).__name__
)
def test_no_second_greeting_on_an_open_link(message: FromServer) -> None:
    agent = Agent().opened()
    assert agent.hears(message) == []
    assert agent.link.close_code == CloseCode.BAD_MESSAGE


def test_no_version_in_common_is_said_by_the_agent_already() -> None:
    agent = Agent()
    agent.hears(Challenge(NONCE, [2, 3], 1))
    (answer,) = agent.says()
    assert isinstance(answer, Error)
    assert (answer.code, answer.fatal) == ("VERSION_MISMATCH", True)
    assert "[1]" in answer.message
    assert "[2, 3]" in answer.message
    assert agent.link.close_code == CloseCode.VERSION_MISMATCH


def test_a_version_that_was_not_offered_is_refused() -> None:
    agent = Agent()
    agent.hears(CHALLENGE)
    assert agent.hears(welcome_with(version=2)) == []
    assert agent.link.close_code == CloseCode.VERSION_MISMATCH


def test_an_error_is_passed_on_and_survived() -> None:
    agent = Agent().opened()
    error = Error("CLOCK_SKEW", "Set up NTP.")
    assert agent.hears(error) == [error]
    assert agent.says() == []
    assert agent.is_in(AgentState.OPEN)


@pytest.mark.parametrize(
    ("code", "close_code"),
    [
        ("AUTHENTICATION_FAILED", CloseCode.UNAUTHENTICATED),
        ("REVOKED", CloseCode.REVOKED),
        ("VERSION_MISMATCH", CloseCode.VERSION_MISMATCH),
        ("SUPERSEDED", CloseCode.SUPERSEDED),
        ("OVERLOADED", CloseCode.OVERLOADED),
        ("OF_A_LATER_VERSION", CloseCode.GOING_AWAY),
    ],
)
def test_a_fatal_error_closes_with_the_code_that_belongs_to_it(
    code: str, close_code: CloseCode
) -> None:
    agent = Agent()
    agent.hears(CHALLENGE)
    agent.link.take_frames()
    error = Error(code, "x" * 2000, fatal=True)
    assert agent.hears(error) == [error]
    assert agent.says() == []
    assert agent.link.close_code == close_code
    assert len(agent.link.close_reason.encode()) <= 123


def test_an_opening_that_refuses_ends_the_link() -> None:
    def opening(challenge: Challenge, clock: int) -> Hello:
        raise InvalidValue("This host has no key any more.")

    link = AgentLink(opening, now=0.0)
    assert link.receive(encode(CHALLENGE), now=0.0, clock=0) == []
    assert link.state is AgentState.CLOSED
    assert link.close_reason == "This host has no key any more."


def test_the_clock_offset_follows_the_control_plane() -> None:
    agent = Agent()
    agent.clock.wall += 90_000
    agent.hears(CHALLENGE)
    assert agent.link.clock_offset == -90_000
    agent.hears(WELCOME)
    agent.clock.wall -= 90_000
    agent.hears(HeartbeatAck(1, agent.clock.wall + 250))
    assert agent.link.clock_offset == 250


def test_a_closed_link_does_nothing_any_more() -> None:
    agent = Agent().opened()
    agent.link.send_inventory(inventory(), now=agent.clock.now)
    agent.hears(Error("X", "The end.", fatal=True))
    agent.link.take_frames()

    assert agent.link.next_tick() == math.inf
    agent.waits(1000)
    assert agent.hears(CHALLENGE) == []
    assert agent.hears(WELCOME) == []
    assert agent.reads(b"\xff") == []
    assert agent.says() == []
    assert agent.is_in(AgentState.CLOSED)
    assert agent.link.close_reason == "The end."


def test_the_control_planes_clock_goes_on_by_itself() -> None:
    """Whatever is done to the host's clock between two heartbeats."""
    agent = Agent().opened()
    start = WELCOME.server_time
    agent.clock.advance(2.5)
    assert agent.link.server_time(agent.clock.now) == start + 2500
    agent.clock.wall -= 3_600_000
    assert agent.link.server_time(agent.clock.now) == start + 2500
    agent.hears(HeartbeatAck(1, start + 2400))
    agent.clock.advance(1)
    assert agent.link.server_time(agent.clock.now) == start + 3400
    assert agent.link.clock_offset == start + 2400 - (agent.clock.wall - 1000)


def test_the_spread_of_first_attempts_is_kept_within_its_bound() -> None:
    for told, kept in ((12.5, 12.5), (1e9, 60.0), (None, None)):
        agent = Agent()
        agent.hears(CHALLENGE)
        agent.hears(replace(WELCOME, retry_spread=told))
        assert agent.link.welcome is not None
        assert agent.link.welcome.retry_spread == kept

"""The two state machines against each other, over a wire that loses nothing."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.agent_link import AgentState, Opening
from remotegpu_protocol.close_codes import CloseCode
from remotegpu_protocol.codec import decode_from_agent, decode_from_server
from remotegpu_protocol.messages import (
    Challenge,
    Enrolled,
    Error,
    Heartbeat,
    HeartbeatAck,
    InventoryAck,
    WatchRate,
    Welcome,
)
from remotegpu_protocol.server_link import ServerState
from tests.protocol.instruments import (
    HOUR_MS,
    MACHINE,
    HostKey,
    Wire,
    enroll_opening,
    hello_opening,
    inventory,
    sample,
)

OTHER_NONCE = bytes(32)


def test_a_connection_from_challenge_to_sample() -> None:
    wire = Wire().pump()
    assert wire.open

    wire.agent.send_inventory(inventory(1), now=wire.clock.now)
    wire.agent.send_metrics(sample(wire.agent_wall))
    wire.server.watch(interval=0.5, lease=30.0)
    wire.run(12)

    assert [type(m).__name__ for m in wire.server_heard] == [
        "Hello",
        "Inventory",
        "Metrics",
        "Heartbeat",
        "Heartbeat",
    ]
    assert wire.agent_heard[1:] == [WatchRate(0.5, 30.0), InventoryAck(1)]
    assert isinstance(wire.agent_heard[0], Welcome)
    assert wire.agent.state is AgentState.OPEN


def test_an_enrolment_and_then_the_first_connection() -> None:
    enrolment = Wire(opening=enroll_opening()).pump()
    assert enrolment.agent_heard == [Enrolled(MACHINE, "node-1")]
    assert enrolment.agent.close_code == enrolment.server.close_code == CloseCode.NORMAL
    assert Wire().pump().open


def test_a_key_that_is_not_registered() -> None:
    wire = Wire(opening=hello_opening(HostKey(2))).pump()

    (error,) = wire.agent_heard
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("AUTHENTICATION_FAILED", True)
    assert wire.agent.close_code == wire.server.close_code == CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize("dialled", ["https://evil.example", "https://gpu.example.org:8443"])
def test_a_host_that_was_lured_elsewhere(dialled: str) -> None:
    """A relay at another address passes both sides' frames on: the origin gives it away."""
    wire = Wire(opening=hello_opening(origin=dialled)).pump()
    assert wire.agent.close_code == wire.server.close_code == CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize("opening", [hello_opening(), enroll_opening()], ids=["hello", "enroll"])
def test_a_recorded_opening_is_worth_nothing_on_another_connection(opening: Opening) -> None:
    recorded = Wire(opening=opening).pump()
    (_, frame) = recorded.to_server[0]

    again = Wire(nonce=OTHER_NONCE)
    again.deliver_to_server(frame)

    assert again.server.state is ServerState.CLOSED
    assert again.server.close_code == CloseCode.UNAUTHENTICATED


def test_a_challenge_with_another_nonce_spoils_the_signature() -> None:
    """Who sits between the ends cannot put a nonce of its own in the place of the server's."""
    wire = Wire()
    theirs = Wire(nonce=OTHER_NONCE)
    wire.server.take_frames()
    for frame in theirs.server.take_frames():
        wire.deliver_to_agent(frame)
    wire.pump()
    assert wire.server.close_code == CloseCode.UNAUTHENTICATED
    assert wire.agent.close_code == CloseCode.UNAUTHENTICATED


def test_a_day_on_an_idle_link() -> None:
    wire = Wire().pump().run(24 * 3600)

    assert wire.open
    beats = [message for message in wire.server_heard if isinstance(message, Heartbeat)]
    assert [beat.sequence for beat in beats] == list(range(1, len(beats) + 1))
    assert len(beats) == pytest.approx(24 * 3600 / 5, abs=1)


def test_a_control_plane_that_stalls_is_left_and_an_agent_that_stalls_is_closed() -> None:
    wire = Wire().pump()
    started = wire.clock.now
    while wire.agent.state is not AgentState.CLOSED:  # what the agent sends is lost on the way
        wire.clock.advance(wire.agent.next_tick() - wire.clock.now)
        wire.agent.tick(now=wire.clock.now, clock=wire.agent_wall)
    assert wire.clock.now - started == pytest.approx(8.0)

    wire.clock.advance(wire.server.next_tick() - wire.clock.now)
    wire.server.tick(now=wire.clock.now)
    assert wire.server.state is ServerState.CLOSED
    assert wire.clock.now - started == pytest.approx(12.0)


def test_an_inventory_that_is_not_acknowledged_comes_every_fifteen_seconds() -> None:
    wire = Wire(acknowledge=False).pump()
    wire.agent.send_inventory(inventory(4), now=wire.clock.now)
    wire.run(50)
    times = [at for at, frame in wire.to_server if decode_from_agent(frame) == inventory(4)]
    assert [later - earlier for earlier, later in pairwise(times)] == [15.0, 15.0, 15.0]

    wire.server.acknowledge_inventory(4)
    wire.run(50)
    assert len([f for _, f in wire.to_server if decode_from_agent(f) == inventory(4)]) == 4


@pytest.mark.parametrize("skew", [HOUR_MS, -HOUR_MS])
def test_a_host_whose_clock_is_an_hour_off(skew: int) -> None:
    wire = Wire(skew=skew).pump().run(60)

    told = [m for m in wire.agent_heard if isinstance(m, Error)]
    assert [error.code for error in told] == ["CLOCK_SKEW"]
    assert wire.agent.clock_offset == -skew
    assert wire.server.corrected(wire.agent_wall) == wire.clock.wall

    wire.skew = 0
    wire.run(60)
    assert wire.server.corrected(wire.agent_wall) == wire.clock.wall

    wire.skew = skew
    wire.run(60)
    told = [m for m in wire.agent_heard if isinstance(m, Error)]
    assert [error.code for error in told] == ["CLOCK_SKEW", "CLOCK_SKEW"]
    assert wire.open


def test_what_goes_over_the_wire_in_a_greeting() -> None:
    wire = Wire().pump().run(5)
    down = [type(decode_from_server(frame)) for _, frame in wire.to_agent]
    assert down == [Challenge, Welcome, HeartbeatAck]
    assert max(len(frame) for _, frame in wire.to_agent + wire.to_server) < 400


@settings(max_examples=60, deadline=None)
@given(
    jitter=st.floats(min_value=0, max_value=1, exclude_max=True),
    skew=st.integers(min_value=-(10**9), max_value=10**12),
    heartbeat=st.floats(min_value=0, max_value=6) | st.just(5.0),
    silence=st.floats(min_value=0, max_value=400),
    acts=st.lists(
        st.tuples(
            st.sampled_from(["metrics", "inventory", "watch", "reject", "wait"]),
            st.floats(min_value=0, max_value=20),
        ),
        max_size=15,
    ),
)
def test_over_a_lossless_wire_a_link_opens_and_stays_open(
    jitter: float, skew: int, heartbeat: float, silence: float, acts: list[tuple[str, float]]
) -> None:
    wire = Wire(
        jitter=lambda: jitter, skew=skew, heartbeat_interval=heartbeat, link_silence=silence
    ).pump()
    for revision, (act, seconds) in enumerate(acts):
        match act:
            case "metrics":
                wire.agent.send_metrics(sample(wire.agent_wall))
            case "inventory":
                wire.agent.send_inventory(inventory(revision), now=wire.clock.now)
            case "watch":
                wire.server.watch(interval=seconds, lease=seconds)
            case "reject":
                wire.server.reject("CODE", "message")
            case _:
                pass
        wire.run(seconds)
        assert wire.open, (wire.agent.close_reason, wire.server.close_reason)
    assert wire.open
    assert wire.server.dropped == 0

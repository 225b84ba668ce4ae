"""Commands, events and what they carry, over a pair of links in memory."""

import msgspec
import pytest

from remotegpu_protocol.agent_link import AgentState
from remotegpu_protocol.commands import Cancel, Command, Event, EventAck, EventState
from remotegpu_protocol.errors import InvalidMessage, MessageTooLarge, UnknownCommand
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    KINDS,
    AllocationEnd,
    AllocationStart,
    CleanedSurface,
    CleaningReport,
    pack_arguments,
    pack_result,
    read_arguments,
    read_result,
)
from remotegpu_protocol.limits import MAX_ARGUMENT_BYTES, MAX_MESSAGE_BYTES
from remotegpu_protocol.messages import Error
from remotegpu_protocol.server_link import ServerState
from tests.protocol.instruments import Wire

START = AllocationStart("a1", "ada", False, ["GPU-1"], 1_900_000_000_000)


def command(**values: object) -> Command:
    packed = pack_arguments(ALLOCATION_START, START)
    return msgspec.structs.replace(
        Command("c1", 1, "allocation.start", packed, 1_900_000_000_000, "a1", 3), **values
    )


def event(**values: object) -> Event:
    return msgspec.structs.replace(Event(1, "c1", EventState.ACCEPTED, 1_800_000_000_000), **values)


def test_a_command_goes_down_and_its_events_up() -> None:
    wire = Wire().pump()
    assert wire.server.command(command())
    assert wire.server.cancel("c1")
    assert wire.agent.send_event(event())
    done = event(sequence=2, state=EventState.SUCCEEDED, result=b"\x80", progress=1.0)
    assert wire.agent.send_event(done)
    wire.server.acknowledge_events(2)
    wire.pump()
    assert wire.agent_heard[1:] == [command(), Cancel("c1"), EventAck(2)]
    assert wire.server_heard[1:] == [event(), done]


def test_nothing_goes_over_a_link_that_is_not_open() -> None:
    wire = Wire()
    assert not wire.server.command(command())
    assert not wire.server.cancel("c1")
    wire.server.acknowledge_events(1)
    assert not wire.agent.send_event(event())
    assert len(wire.server.take_frames()) == 1, "the challenge"
    assert wire.agent.take_frames() == []


@pytest.mark.parametrize("message", [command(), Cancel("c1"), EventAck(1)])
def test_neither_end_takes_them_before_the_welcome(message: msgspec.Struct) -> None:
    early = Wire()
    early.deliver_to_server(msgspec.msgpack.encode(event()))
    assert early.server.state is ServerState.CLOSED
    early.deliver_to_agent(msgspec.msgpack.encode(message))
    assert early.agent.state is AgentState.CLOSED


def test_what_does_not_fit_is_refused_where_it_is_written() -> None:
    wire = Wire().pump()
    with pytest.raises(MessageTooLarge):
        wire.server.command(command(arguments=bytes(MAX_MESSAGE_BYTES)))
    assert wire.pump().agent_heard[1:] == []
    assert wire.open
    users = AllocationStart("a" * 128, "u" * 255, True, ["g" * 128] * 64, 1)
    assert len(pack_arguments(ALLOCATION_START, users)) < MAX_ARGUMENT_BYTES


def test_arguments_keep_the_shape_of_their_kind() -> None:
    for kind in KINDS.values():
        with pytest.raises(InvalidMessage, match=kind.name):
            read_arguments(kind.name, b"\x80")
    packed = pack_arguments(ALLOCATION_START, START)
    assert read_arguments("allocation.start", packed) == START
    with pytest.raises(UnknownCommand, match=r"allocation\.start"):
        read_arguments("shell.run", packed)
    # What a newer control plane would have done besides is not done in part.
    more = msgspec.msgpack.decode(packed) | {"sudo": True}
    with pytest.raises(InvalidMessage, match="sudo"):
        read_arguments("allocation.start", msgspec.msgpack.encode(more))
    for junk in (
        b"",
        b"\xc1",
        b"\x00" * 9,
        packed + b"\x00",
        b"\x93" * 5000,
        b"\xa4\xff\xff\xff\xff",
    ):
        with pytest.raises(InvalidMessage):
            read_arguments("allocation.start", junk)
    for identifier in ("", "a\0", "\ud800"):
        with pytest.raises(InvalidMessage):
            pack_arguments(ALLOCATION_END, AllocationEnd(identifier))


def test_results_keep_the_shape_of_their_kind() -> None:
    report = CleaningReport(
        performed=True,
        verified=True,
        items=[CleanedSurface("home", "removed", 1, 1, True, "/home/ada")],
    )
    assert read_result(ALLOCATION_END, pack_result(ALLOCATION_END, report)) == report
    with pytest.raises(InvalidMessage, match=r"allocation\.end"):
        read_result(ALLOCATION_END, b"\x81\xa9performed\xa3yes")
    read_result(ALLOCATION_START, b"\x80")


def test_an_agent_says_why_it_does_not_answer_and_the_link_goes_on() -> None:
    wire = Wire()
    wire.agent.say("JOURNAL", "nobody hears that yet")
    wire.pump().agent.say("JOURNAL", "The disk is full.\n")
    assert wire.pump().server_heard[1:] == [Error("JOURNAL", "The disk is full.", fatal=False)]
    assert wire.open


def test_which_states_are_ends() -> None:
    assert {state for state in EventState if not state.is_end} == {
        EventState.ACCEPTED,
        EventState.RUNNING,
    }

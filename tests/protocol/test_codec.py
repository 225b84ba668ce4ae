import math
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from remotegpu_protocol.codec import decode_from_agent, decode_from_server, encode
from remotegpu_protocol.errors import InvalidMessage, MessageTooLarge, UnknownMessage
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES
from remotegpu_protocol.messages import Error, FromAgent, FromServer, Heartbeat, HeartbeatAck
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics
from tests.protocol.instruments import inventory, sample
from tests.protocol.shapes import (
    MESSAGES,
    Leaf,
    Tree,
    bare,
    full,
    leaves,
    struct_info,
    tag,
    trees,
    with_leaf,
)

LEAVES = [leaf for message in MESSAGES for leaf in leaves(message)]


def read(message: type[msgspec.Struct], frame: bytes) -> FromAgent | FromServer:
    if message in get_args(FromServer):
        return decode_from_server(frame)
    return decode_from_agent(frame)


def beyond(kind: inspect.Type) -> list[Tree]:
    """Values that a field of this type must not let in."""
    match kind:
        case inspect.FloatType(ge=low, le=high):
            assert low is not None
            assert high is not None
            edges = (math.nextafter(low, -math.inf), math.nextafter(high, math.inf))
            return [math.nan, math.inf, -math.inf, *edges, "1", True]
        case inspect.IntType(ge=low, le=high):
            assert low is not None
            assert high is not None
            return [low - 1, high + 1, -(2**63), 2**64 - 1, 1.5, math.nan, "1", True]
        case inspect.StrType(max_length=most, min_length=least, pattern=pattern):
            assert most is not None
            values: list[Tree] = ["a" * (most + 1), 1, b"a"]
            values += [""] if least else []
            values += (
                ["a\0b", "a\n", "\x1b[31m", "\x7f", "\x9b", "a\u202eb", "\u200b"] if pattern else []
            )
            return values
        case inspect.BytesType(min_length=least, max_length=most):
            assert least is not None
            assert most is not None
            return [bytes(least - 1), bytes(most + 1), "a" * least, 1]
        case inspect.ListType(item_type=item, max_length=most):
            assert most is not None
            return [[full(item)] * (most + 1), {}, 1]
        case inspect.BoolType():
            return [0, 1, "true"]
        case inspect.EnumType():
            return ["", "NO_SUCH_MEMBER", "Z" * 10_000, 1]
        case other:
            raise AssertionError(f"Nothing is beyond {other}: give the field bounds.")


def edges(kind: inspect.Type) -> list[Tree]:
    """The outermost values that a field of this type lets in."""
    match kind:
        case inspect.FloatType(ge=low, le=high) | inspect.IntType(ge=low, le=high):
            return [low, high]
        case inspect.StrType(max_length=most) if most is not None:
            return ["a" * most, "é" * most, "\U0001f600" * most]
        case inspect.ListType(item_type=item, max_length=most) if most is not None:
            return [[full(item)] * most]
        case inspect.EnumType(cls=members):
            return [member.value for member in members]
        case _:
            return []


@pytest.mark.parametrize("message", MESSAGES, ids=tag)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_way(message: type[msgspec.Struct], data: st.DataObject) -> None:
    tree = data.draw(trees(struct_info(message)))

    made = read(message, msgspec.msgpack.encode(tree))

    assert isinstance(made, message)
    assert read(message, encode(made)) == made


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_a_value_out_of_bounds_makes_the_message_invalid(leaf: Leaf) -> None:
    for value in beyond(leaf.type):
        frame = msgspec.msgpack.encode(with_leaf(leaf, value))
        with pytest.raises(InvalidMessage) as refused:
            read(leaf.message, frame)
        assert tag(leaf.message) in refused.value.message
        assert len(refused.value.message) < 500


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_a_value_at_its_bound_is_let_in(leaf: Leaf) -> None:
    for value in edges(leaf.type):
        assert isinstance(
            read(leaf.message, msgspec.msgpack.encode(with_leaf(leaf, value))), leaf.message
        )


@pytest.mark.parametrize("message", MESSAGES, ids=tag)
def test_a_required_field_that_is_missing_is_named(message: type[msgspec.Struct]) -> None:
    for field in struct_info(message).fields:
        tree = full(struct_info(message))
        assert isinstance(tree, dict)
        del tree[field.encode_name]
        frame = msgspec.msgpack.encode(tree)
        if field.required:
            with pytest.raises(InvalidMessage, match=field.encode_name):
                read(message, frame)
        else:
            assert isinstance(read(message, frame), message)


@pytest.mark.parametrize("message", MESSAGES, ids=tag)
def test_fields_of_later_versions_are_ignored(message: type[msgspec.Struct]) -> None:
    tree = full(struct_info(message))
    assert isinstance(tree, dict)
    expected = read(message, msgspec.msgpack.encode(tree))
    added: list[Tree] = [None, 1, "x", b"\xff", [[]], {"deep": {"er": 1.5}}]
    for value in added:
        before = {"a_new_field": value, **tree}
        after = {**tree, "a_new_field": value}
        assert read(message, msgspec.msgpack.encode(before)) == expected
        assert read(message, msgspec.msgpack.encode(after)) == expected


def test_array_structs_ignore_what_is_added_and_default_what_is_missing() -> None:
    short = {"type": "metrics", "sampled_at": 5, "host": [], "gpus": [[0, "GPU-1"]]}
    long = {
        "type": "metrics",
        "sampled_at": 5,
        "host": [1.0, *[None] * 30],
        "gpus": [[0, "GPU-1", 50, *[None] * 30]],
    }

    assert decode_from_agent(msgspec.msgpack.encode(short)) == Metrics(
        5, HostMetrics(), [GpuMetrics(0, "GPU-1")]
    )
    assert decode_from_agent(msgspec.msgpack.encode(long)) == Metrics(
        5, HostMetrics(1.0), [GpuMetrics(0, "GPU-1", 50.0)]
    )


@pytest.mark.parametrize("value", [None, 5, "metrics", [], [1], True, 1.5, b"", {}, {"x": 1}])
def test_what_is_no_message_is_invalid(value: Tree) -> None:
    for decode in (decode_from_agent, decode_from_server):
        with pytest.raises(InvalidMessage):
            decode(msgspec.msgpack.encode(value))


@pytest.mark.parametrize("kind", [None, 5, 1.5, True, ["heartbeat"], {"a": 1}, b"heartbeat"])
def test_a_type_that_is_no_text_is_invalid(kind: Tree) -> None:
    with pytest.raises(InvalidMessage):
        decode_from_agent(msgspec.msgpack.encode({"type": kind, "sequence": 1, "clock": 1}))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="never used in msgpack"),
        pytest.param(encode(Heartbeat(1, 2))[:-1], id="cut"),
        pytest.param(encode(Heartbeat(1, 2)) + b"\x00", id="bytes behind"),
        pytest.param(encode(Heartbeat(1, 2)) * 2, id="two messages"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="a map of 4294967295 items"),
        pytest.param(b"\x81\xa4type\xdb\xff\xff\xff\xff", id="a text of 4 GiB"),
        pytest.param(b"\x81\x01\x02", id="keys that are no texts"),
        pytest.param(b"\x81\xa4type\xa9\xff\xfeartbeat", id="a type that is not UTF-8"),
    ],
)
def test_broken_msgpack_is_invalid(frame: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_from_agent(frame)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_text_that_is_not_utf8_is_invalid(text: bytes) -> None:
    good = encode(Error("CODE", "x" * len(text)))
    with pytest.raises(InvalidMessage):
        decode_from_agent(good.replace(b"x" * len(text), text))


@pytest.mark.parametrize("opener", [b"\x91", b"\x81\xa1x"])
@pytest.mark.parametrize("start", [b"", b"\x82\xa4type\xa9heartbeat\xa1x"])
def test_deep_nesting_is_invalid_and_no_crash(start: bytes, opener: bytes) -> None:
    frame = start + opener * ((MAX_MESSAGE_BYTES - len(start)) // len(opener))
    with pytest.raises(InvalidMessage):
        decode_from_agent(frame)


def test_a_text_frame_is_invalid() -> None:
    with pytest.raises(InvalidMessage, match="binary"):
        decode_from_agent('{"type": "heartbeat", "sequence": 1, "clock": 1}')
    with pytest.raises(InvalidMessage, match="binary"):
        decode_from_server("")


def test_the_order_of_keys_does_not_matter() -> None:
    frame = msgspec.msgpack.encode({"clock": 2, "sequence": 1, "type": "heartbeat"})
    assert decode_from_agent(frame) == Heartbeat(1, 2)


def test_an_unknown_type_is_told_from_an_invalid_message() -> None:
    with pytest.raises(UnknownMessage, match="'stream_open'"):
        decode_from_agent(msgspec.msgpack.encode({"type": "stream_open", "stream": 1}))
    with pytest.raises(UnknownMessage) as refused:
        decode_from_server(msgspec.msgpack.encode({"type": "\x1b" * 100_000}))
    assert len(refused.value.message) < 500
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("message", MESSAGES, ids=tag)
def test_messages_of_the_other_direction_are_unknown(message: type[msgspec.Struct]) -> None:
    frame = msgspec.msgpack.encode(full(struct_info(message)))
    for types, decode in ((FromAgent, decode_from_agent), (FromServer, decode_from_server)):
        if message in get_args(types):
            assert isinstance(decode(frame), message)
        else:
            with pytest.raises(UnknownMessage, match=tag(message)):
                decode(frame)


def test_size_is_checked_before_anything_else() -> None:
    frame = encode(Heartbeat(1, 2))
    padded = frame + bytes(MAX_MESSAGE_BYTES + 1 - len(frame))
    with pytest.raises(MessageTooLarge, match=str(MAX_MESSAGE_BYTES)):
        decode_from_agent(padded)
    with pytest.raises(MessageTooLarge):
        decode_from_server(padded)


def test_a_message_of_exactly_the_largest_size_is_read() -> None:
    empty = {"type": "heartbeat", "sequence": 1, "clock": 2, "pad": bytes(70_000)}
    overhead = len(msgspec.msgpack.encode(empty)) - 70_000
    frame = msgspec.msgpack.encode({**empty, "pad": bytes(MAX_MESSAGE_BYTES - overhead)})
    assert len(frame) == MAX_MESSAGE_BYTES
    assert decode_from_agent(frame) == Heartbeat(1, 2)


def test_nothing_is_written_that_the_other_side_would_refuse_for_its_size() -> None:
    with pytest.raises(MessageTooLarge, match="Metrics"):
        encode(sample(1, gpus=64, processes=128))
    assert len(encode(sample(1, gpus=16, processes=64))) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("message", [Error("CODE", "\ud800"), HeartbeatAck(2**64, 1)])
def test_what_msgpack_cannot_hold_is_refused_as_a_protocol_error(
    message: Error | HeartbeatAck,
) -> None:
    with pytest.raises(InvalidMessage, match=type(message).__name__):
        encode(message)


def test_defaults_of_an_inventory_stay_off_the_wire() -> None:
    gpu = msgspec.msgpack.decode(encode(inventory()))["gpus"][0]
    assert set(gpu) == {"index", "uuid", "model", "memory_total"}


def test_every_leaf_has_bounds() -> None:
    for leaf in LEAVES:
        assert beyond(bare(leaf.type)), leaf

"""Messages taken as they are read: the same ones, in the same order, however the bytes arrive."""

import asyncio
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from remotegpu_api.frame_check import _HANDSHAKE, _Recorder
from remotegpu_api.gateway import pace
from remotegpu_api.taking import is_between_frames, take_by, whole_message
from remotegpu_api.websocket_protocol import WebsocketProtocol

#: Both sides of each step in the header's form, and beyond what is taken at once.
LENGTHS = (0, 1, 125, 126, 1000, 65535, 65536)
ANSWER = b"\x82\x06answer"


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


class Socket:
    """A websocket without a network, whose messages are taken unless they begin with `no`."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.asked = 0
        self.transport = _Recorder()

    async def open(self, path: bytes = b"/agent") -> "Socket":
        accepted = asyncio.Event()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            take_by(scope, self._take)
            accepted.set()
            await asyncio.Event().wait()

        config = uvicorn.Config(
            application,
            interface="asgi3",
            http="httptools",
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            ws_per_message_deflate=False,
        )
        config.load()
        self.protocol = WebsocketProtocol(config, ServerState(), {})
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(_HANDSHAKE.replace(b"GET / ", b"GET " + path + b" "))
        await accepted.wait()
        self.transport.take()
        return self

    def _take(self, message: bytes) -> Sequence[bytes] | None:
        self.asked += 1
        if message.startswith(b"no"):
            return None
        self.taken.append(message)
        return [b"answer"] if message.startswith(b"?") else []

    @property
    def queued(self) -> list[Any]:
        found = []
        while not self.protocol.queue.empty():
            found.append(self.protocol.queue.get_nowait())
        return found

    async def close(self) -> None:
        tasks = tuple(self.protocol.tasks)
        self.protocol.logger.disabled = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.protocol.logger.disabled = False
        self.protocol.connection_lost(None)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[int]]:
    """Frames of whole messages, and where the bytes of all are cut."""
    messages: list[bytes] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(
            st.sampled_from(("taken", "taken", "answered", "refused", "text", "ping", "cut"))
        )
        body = random.Random(draw(st.integers(0, 9))).randbytes(draw(st.sampled_from(LENGTHS)))
        match kind:
            case "taken":
                messages.append(frame(Opcode.BINARY, b"-" + body))
            case "answered":
                messages.append(frame(Opcode.BINARY, b"?" + body))
            case "refused":
                messages.append(frame(Opcode.BINARY, b"no" + body))
            case "text":
                messages.append(frame(Opcode.TEXT, body.hex().encode()))
            case "ping":
                messages.append(frame(Opcode.PING, body[:125]))
            case "cut":
                messages.append(frame(Opcode.BINARY, b"-" + body, fin=False))
                messages.append(frame(Opcode.CONT, body))
    size = sum(map(len, messages))
    cuts = draw(st.lists(st.integers(1, size), max_size=5))
    return messages, sorted(set(cuts))


@given(streams())
async def test_bytes_may_arrive_as_they_like(stream: tuple[list[bytes], list[int]]) -> None:
    messages, cuts = stream
    data = b"".join(messages)
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    # Frame by frame in two pieces, none is whole, and the library reads all of them.
    halves = [part for message in messages for part in (message[:1], message[1:])]
    seen = []
    for parts in ([data], pieces, halves):
        socket = await Socket().open()
        for part in parts:
            if part:
                socket.protocol.data_received(part)
        written = socket.transport.take()
        # A ping may be answered before or after a message that came with it.
        others, answers = written.replace(ANSWER, b""), written.count(ANSWER)
        seen.append((socket.taken, socket.queued, others, answers))
        await socket.close()
    assert seen[0] == seen[1] == seen[2]


async def test_only_whole_messages_are_taken_at_once() -> None:
    socket = await Socket().open()
    whole = frame(Opcode.BINARY, b"x" * 200)
    for cut in range(1, len(whole)):
        assert whole_message(whole[:cut], 0) is None
        assert is_between_frames(socket.protocol.conn)
        socket.protocol.data_received(whole[:cut])
        # Even where the library has consumed every byte that it got.
        assert not is_between_frames(socket.protocol.conn)
        socket.protocol.data_received(whole[cut:])
    assert socket.taken == [b"x" * 200] * (len(whole) - 1)
    socket.protocol.data_received(frame(Opcode.BINARY, b"half", fin=False))
    assert not is_between_frames(socket.protocol.conn)
    socket.protocol.data_received(frame(Opcode.CONT, b""))
    assert is_between_frames(socket.protocol.conn)
    await socket.close()


async def test_the_library_reads_only_what_is_not_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = await Socket().open()
    read: list[bytes] = []
    inner = socket.protocol.conn.receive_data

    def receive_data(data: bytes) -> None:
        read.append(data)
        inner(data)

    monkeypatch.setattr(socket.protocol.conn, "receive_data", receive_data)
    first, second = (frame(Opcode.BINARY, body) for body in (b"first", b"second"))
    text = frame(Opcode.TEXT, b"text")
    socket.protocol.data_received(first + second)
    assert (socket.taken, read) == ([b"first", b"second"], [])
    socket.protocol.data_received(first + text + second)
    # From the first on that is not taken: order is the library's to keep.
    assert read == [text + second]
    assert socket.taken == [b"first", b"second", b"first"]
    await socket.close()


@pytest.mark.parametrize(("path", "pings"), [(b"/agent", False), (b"/graphql", True)])
async def test_agents_are_not_pinged(path: bytes, pings: bool) -> None:
    """They beat by themselves."""
    socket = await Socket().open(path)
    assert (socket.protocol.ping_timer is not None) == pings
    await socket.close()


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.BINARY, b"not masked").serialize(mask=False),
        b"\xc2" + frame(Opcode.BINARY, b"reserved bit")[1:],
        frame(Opcode.BINARY, b"\0" * 65536),
        frame(Opcode.TEXT, b"text"),
    ],
    # Masks are random, and ids must not be.
    ids=["not masked", "reserved bit", "64 KiB", "text"],
)
def test_what_is_not_taken_at_once(data: bytes) -> None:
    assert whole_message(data, 0) is None


async def test_nothing_is_taken_after_the_end() -> None:
    socket = await Socket().open()
    # In one piece: what follows the close frame is not looked at.
    socket.protocol.data_received(
        frame(Opcode.BINARY, b"before")
        + frame(Opcode.CLOSE, b"\x03\xe8")
        + frame(Opcode.BINARY, b"after")
    )
    socket.protocol.data_received(frame(Opcode.BINARY, b"later"))
    assert socket.taken == [b"before"]
    await socket.close()


class Clock:
    """Stands for the module `time`; rests are counted, and pass at once."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0
        self.rested: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.worked

    def sleep(self, seconds: float) -> None:
        self.rested.append(seconds)
        self.now += seconds

    def turn(self, *, seconds: float, busy: float) -> None:
        self.now += seconds
        self.worked += busy * seconds


@pytest.mark.parametrize(
    ("rate", "work", "rest"),
    [
        # In a process that has little else to do.
        (2000, 0.0002, pace.LONGEST),
        (650, 0.0002, pace.LONGEST),
        # Where more come, it ends as soon as enough have gathered.
        (10_000, 0.0002, pace.ENOUGH / 10_000),
        # Where there is much to do for each, they gather meanwhile.
        (10_000, 0.005, None),
        # A small fleet: a rest would gather nothing.
        (250, 0.0002, None),
        (2, 0.0002, None),
    ],
)
async def test_rests_only_where_they_gather_something(
    monkeypatch: pytest.MonkeyPatch, rate: float, work: float, rest: float | None
) -> None:
    clock = Clock()
    monkeypatch.setattr(
        pace,
        "time",
        SimpleNamespace(
            **{name: getattr(clock, name) for name in ("monotonic", "thread_time", "sleep")}
        ),
    )
    paced = pace.Pace()
    taken = 0
    for turn in range(1, 6):
        # Until a message is there, and then the work that it makes.
        clock.now = max(clock.now, (taken + 1) / rate)
        clock.turn(seconds=work, busy=1)
        while taken < int(clock.now * rate):
            taken += 1
            paced.took()
        # What they wait for is done before, and more may be read meanwhile.
        await asyncio.sleep(0)
        assert len(clock.rested) == (turn - 1 if rest else 0)
        await asyncio.sleep(0)
        assert len(clock.rested) == (turn if rest else 0)
    assert paced.rests == len(clock.rested)
    if rest:
        assert clock.rested[-1] == pytest.approx(rest, rel=0.1)

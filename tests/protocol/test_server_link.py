import math
from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from remotegpu_protocol.close_codes import CloseCode
from remotegpu_protocol.codec import decode_from_server, encode
from remotegpu_protocol.errors import Revoked
from remotegpu_protocol.inventory import (
    Address,
    AddressKind,
    GpuHealth,
    GpuInventory,
    HostInventory,
    Inventory,
)
from remotegpu_protocol.limits import (
    HELLO_TIMEOUT,
    MAX_INVALID_MESSAGES,
    MAX_MESSAGE_BYTES,
    MESSAGE_BURST,
    MESSAGE_RATE,
    REPLY_BURST,
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
from remotegpu_protocol.metrics import GpuMetrics, HostMetrics, Metrics
from remotegpu_protocol.server_link import ServerLink, ServerState
from remotegpu_protocol.values import MAX_TIMESTAMP
from tests.protocol.instruments import (
    HOUR_MS,
    MACHINE,
    NONCE,
    ORIGIN,
    HandClock,
    enroll_opening,
    hello_opening,
    inventory,
    sample,
)

UNREADABLE = msgspec.msgpack.encode({"type": "heartbeat", "sequence": -1})


class Server:
    """A control plane's link and its clock, fed by hand."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.link = ServerLink(
            nonce=NONCE, origins=[ORIGIN], now=self.clock.now, clock=self.clock.wall
        )
        self.challenge = decode_from_server(self.link.take_frames()[0])

    def hears(self, message: FromAgent) -> FromAgent | None:
        return self.reads(encode(message))

    def reads(self, frame: bytes | str) -> FromAgent | None:
        return self.link.receive(frame, now=self.clock.now, clock=self.clock.wall)

    def waits(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.link.tick(now=self.clock.now)

    def says(self) -> list[FromServer]:
        return [decode_from_server(frame) for frame in self.link.take_frames()]

    def says_errors(self) -> list[tuple[str, bool]]:
        said = self.says()
        errors = [message for message in said if isinstance(message, Error)]
        assert len(errors) == len(said)
        return [(error.code, error.fatal) for error in errors]

    def hello(self, *, ahead_ms: int = 0) -> Hello:
        assert isinstance(self.challenge, Challenge)
        hello = hello_opening()(self.challenge, self.clock.wall + ahead_ms)
        assert isinstance(hello, Hello)
        return hello

    def enroll(self) -> Enroll:
        assert isinstance(self.challenge, Challenge)
        enroll = enroll_opening()(self.challenge, self.clock.wall)
        assert isinstance(enroll, Enroll)
        return enroll

    def welcomes(self) -> None:
        self.link.welcome(epoch=7, machine_name="node-1", clock=self.clock.wall)

    def opened(self, *, ahead_ms: int = 0) -> "Server":
        self.hears(self.hello(ahead_ms=ahead_ms))
        self.welcomes()
        assert self.link.state is ServerState.OPEN
        return self

    def sample(self, later: int = 0, *, gpus: int = 0) -> Metrics:
        """One of now, or so many milliseconds later."""
        return sample(self.clock.wall + later, gpus=gpus)

    def beats(self, *, ahead_ms: int = 0) -> None:
        self.hears(Heartbeat(1, self.clock.wall + ahead_ms))


def test_it_challenges_at_once() -> None:
    server = Server()
    assert server.challenge == Challenge(NONCE, [1], server.clock.wall)


def test_greeting() -> None:
    server = Server()
    hello = server.hello()

    assert server.hears(hello) == hello
    assert server.link.state is ServerState.AWAITING_VERDICT
    assert server.link.version == 1
    assert server.says() == []

    server.welcomes()
    (welcome,) = server.says()
    assert isinstance(welcome, Welcome)
    assert (welcome.version, welcome.epoch, welcome.machine_name) == (1, 7, "node-1")
    assert welcome.server_time == server.clock.wall


def test_enrolment_is_answered_and_ends() -> None:
    server = Server()
    assert isinstance(server.hears(server.enroll()), Enroll)
    server.link.enrolled(machine_id=MACHINE, machine_name="node-1")

    assert server.says() == [Enrolled(MACHINE, "node-1")]
    assert server.link.state is ServerState.CLOSED
    assert server.link.close_code == CloseCode.NORMAL


def test_a_refusal_says_why_and_closes() -> None:
    server = Server()
    server.hears(server.hello())
    server.link.refuse(Revoked("The key of this host was revoked.\nEnrol it again. \ud800" * 100))

    (error,) = server.says()
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("REVOKED", True)
    assert error.message.startswith("The key of this host was revoked. Enrol it again. \ufffd")
    assert server.link.close_code == CloseCode.REVOKED
    assert len(server.link.close_reason.encode()) <= 123


@pytest.mark.parametrize(
    "verdict",
    [
        lambda link: link.welcome(epoch=7, machine_name="node-1", clock=1),
        lambda link: link.enrolled(machine_id=MACHINE, machine_name="node-1"),
        lambda link: link.refuse(Revoked("Revoked.")),
    ],
    ids=["welcome", "enrolled", "refuse"],
)
def test_a_verdict_that_comes_too_late_changes_nothing(
    verdict: Callable[[ServerLink], None],
) -> None:
    server = Server()
    server.hears(server.hello())
    server.waits(HELLO_TIMEOUT)
    assert server.link.close_code == CloseCode.HELLO_TIMEOUT
    assert "verdict" in server.link.close_reason

    verdict(server.link)

    assert server.says() == []
    assert server.link.state is ServerState.CLOSED
    assert server.link.close_code == CloseCode.HELLO_TIMEOUT


def test_nobody_is_welcomed_without_a_hello() -> None:
    server = Server()
    server.welcomes()
    assert server.says() == []
    assert server.link.state is ServerState.AWAITING_HELLO


def test_no_hello_in_time() -> None:
    server = Server()
    assert server.link.next_tick() == server.clock.now + HELLO_TIMEOUT
    server.waits(HELLO_TIMEOUT - 0.01)
    assert server.link.state is ServerState.AWAITING_HELLO
    server.waits(0.01)
    assert server.link.close_code == CloseCode.HELLO_TIMEOUT
    assert "hello" in server.link.close_reason


def test_errors_do_not_prolong_the_greeting() -> None:
    server = Server()
    for _ in range(5):
        server.waits(HELLO_TIMEOUT / 5)
        server.hears(Error("X", "still here"))
    assert server.link.close_code == CloseCode.HELLO_TIMEOUT


def test_a_silent_agent_is_closed() -> None:
    server = Server().opened()
    assert server.link.next_tick() == server.clock.now + UNREACHABLE_AFTER
    server.waits(UNREACHABLE_AFTER - 0.01)
    server.beats()
    server.waits(UNREACHABLE_AFTER - 0.01)
    assert server.link.state is ServerState.OPEN
    server.waits(0.01)
    assert server.link.close_code == CloseCode.GOING_AWAY


def test_heartbeats_are_answered_and_passed_on() -> None:
    server = Server().opened()
    server.says()
    beat = Heartbeat(41, server.clock.wall - 20)
    assert server.hears(beat) == beat
    assert server.says() == [HeartbeatAck(41, server.clock.wall)]
    assert server.link.clock_offset == 20


def test_samples_and_inventories_are_passed_on() -> None:
    server = Server().opened()
    server.says()
    assert server.hears(server.sample()) == server.sample()
    assert server.hears(inventory(3)) == inventory(3)
    assert server.says() == []
    server.link.acknowledge_inventory(3)
    assert server.says() == [InventoryAck(3)]


def test_a_watch_reaches_an_open_link_only() -> None:
    server = Server()
    server.link.watch(interval=0.5, lease=30.0)
    server.link.acknowledge_inventory(1)
    assert server.says() == []
    server.opened()
    server.says()
    server.link.watch(interval=0.5, lease=30.0)
    assert server.says() == [WatchRate(0.5, 30.0)]


def test_a_rejection_is_told_and_survived() -> None:
    server = Server().opened()
    server.says()
    server.link.reject("HARDWARE_UUID_TAKEN", "Another machine has it.\r\n" + "x" * 5000)
    (error,) = server.says()
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("HARDWARE_UUID_TAKEN", False)
    assert len(error.message) == 2000
    assert server.link.state is ServerState.OPEN


@pytest.mark.parametrize("versions", [[2], [2, 3], [65_535]])
def test_no_version_in_common(versions: list[int]) -> None:
    for opening in (Server.hello, Server.enroll):
        server = Server()
        assert server.hears(replace(opening(server), versions=versions)) is None
        (error,) = server.says()
        assert isinstance(error, Error)
        assert (error.code, error.fatal) == ("VERSION_MISMATCH", True)
        assert str(versions) in error.message
        assert server.link.close_code == CloseCode.VERSION_MISMATCH


def test_the_best_common_version_is_chosen() -> None:
    server = Server()
    server.hears(replace(server.hello(), versions=[9, 1, 2]))
    server.welcomes()
    (welcome,) = server.says()
    assert isinstance(welcome, Welcome)
    assert welcome.version == 1


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://gpu.example.org", ORIGIN + ":8443", ORIGIN + "/", "", ORIGIN.upper()],
)  # fmt: skip
def test_another_origin(origin: str) -> None:
    for opening in (Server.hello, Server.enroll):
        server = Server()
        assert server.hears(replace(opening(server), origin=origin)) is None
        (error,) = server.says()
        assert isinstance(error, Error)
        assert (error.code, error.fatal) == ("AUTHENTICATION_FAILED", True)
        assert ORIGIN in error.message
        assert server.link.close_code == CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "message",
    [Heartbeat(1, 1), sample(1), inventory()],
    ids=lambda message: type(message).__name__,
)
def test_nothing_but_an_opening_comes_first(message: FromAgent) -> None:
    server = Server()
    assert server.hears(message) is None
    assert server.says_errors() == [("UNEXPECTED_MESSAGE", True)]
    assert server.link.close_code == CloseCode.BAD_MESSAGE


@pytest.mark.parametrize(
    "message",
    [Heartbeat(1, 1), sample(1), inventory()],
    ids=lambda message: type(message).__name__,
)
def test_nothing_comes_before_the_verdict(message: FromAgent) -> None:
    server = Server()
    server.hears(server.hello())
    assert server.hears(message) is None
    assert server.says_errors() == [("UNEXPECTED_MESSAGE", True)]
    server.welcomes()
    assert server.link.state is ServerState.CLOSED


def test_a_second_opening_is_refused() -> None:
    for second in (Server.hello, Server.enroll):
        waiting = Server()
        waiting.hears(waiting.hello())
        assert waiting.hears(second(waiting)) is None
        assert waiting.link.state is ServerState.CLOSED

        server = Server().opened()
        server.says()
        assert server.hears(second(server)) is None
        assert server.says_errors() == [("UNEXPECTED_MESSAGE", False)]
        assert server.link.state is ServerState.OPEN


@pytest.mark.parametrize(
    "frame", [b"", b"\xff", "{}", UNREADABLE, b"\x91" * 1000, msgspec.msgpack.encode({"type": "x"})]
)
def test_a_greeting_that_cannot_be_read_is_the_end(frame: bytes | str) -> None:
    server = Server()
    assert server.reads(frame) is None
    ((_, fatal),) = server.says_errors()
    assert fatal
    assert server.link.close_code == CloseCode.BAD_MESSAGE


def test_invalid_messages_on_an_open_link_are_answered_and_survived() -> None:
    server = Server().opened()
    server.says()
    for frame in (b"", b"\xff", "text", UNREADABLE, b"\x91" * 1000):
        assert server.reads(frame) is None
        assert server.says_errors() == [("INVALID_MESSAGE", False)]
    assert server.hears(server.sample()) == server.sample()


def test_too_many_invalid_messages_are_the_end() -> None:
    server = Server().opened()
    server.says()
    for _ in range(MAX_INVALID_MESSAGES):
        server.reads(UNREADABLE)
    assert server.link.state is ServerState.OPEN
    assert len(server.says()) == MAX_INVALID_MESSAGES
    server.reads(UNREADABLE)
    assert server.says_errors() == [("INVALID_MESSAGE", True)]
    assert server.link.close_code == CloseCode.BAD_MESSAGE


def test_now_and_then_an_invalid_message_is_forgiven() -> None:
    server = Server().opened()
    for _ in range(MAX_INVALID_MESSAGES * 5):
        server.reads(UNREADABLE)
        for _ in range(6):
            server.waits(10)
            server.beats()
    assert server.link.state is ServerState.OPEN


def test_an_agent_that_knows_more_is_told_and_stays() -> None:
    server = Server().opened()
    server.says()
    frame = msgspec.msgpack.encode({"type": "gpu_topology", "links": []})
    server.reads(frame)
    assert server.says_errors() == [("UNKNOWN_MESSAGE", False)]
    for _ in range(1000):
        server.waits(5)
        server.reads(frame)
        server.beats()
    assert server.link.state is ServerState.OPEN


def test_a_flood_of_unknown_types_is_answered_in_measure() -> None:
    server = Server().opened()
    server.says()
    for _ in range(200):
        server.waits(0.05)
        server.reads(msgspec.msgpack.encode({"type": "x"}))
    assert REPLY_BURST <= len(server.says()) <= REPLY_BURST + 11
    assert server.link.state is ServerState.OPEN


def test_an_oversized_frame_is_the_end_at_once() -> None:
    server = Server().opened()
    server.says()
    assert server.reads(bytes(MAX_MESSAGE_BYTES + 1)) is None
    assert server.says_errors() == [("MESSAGE_TOO_LARGE", True)]
    assert server.link.close_code == CloseCode.TOO_LARGE


def test_what_comes_too_fast_is_dropped_and_counted() -> None:
    server = Server().opened()
    server.says()
    heard = [server.hears(server.sample(n)) for n in range(500)]
    assert len([message for message in heard if message]) == MESSAGE_BURST - 1  # the hello counted
    assert server.link.dropped == 500 - (MESSAGE_BURST - 1)
    assert server.says_errors() == [("RATE_LIMITED", False)]
    assert server.link.state is ServerState.OPEN

    server.waits(1.0)
    heard = [server.hears(server.sample(n)) for n in range(500)]
    assert len([message for message in heard if message]) == pytest.approx(MESSAGE_RATE, abs=1)


def test_ten_samples_a_second_are_not_too_fast() -> None:
    server = Server().opened()
    for n in range(600):
        server.waits(0.1)
        assert server.hears(server.sample()) is not None
        if n % 50 == 0:
            server.beats()
    assert server.link.dropped == 0


def test_a_flood_gets_few_answers() -> None:
    server = Server().opened()
    server.says()
    for _ in range(20_000):
        server.waits(0.0005)
        server.reads(UNREADABLE)
    assert server.link.state is ServerState.CLOSED
    assert len(server.says()) <= MAX_INVALID_MESSAGES + REPLY_BURST + 1


def test_an_agents_fatal_error_ends_the_link() -> None:
    server = Server().opened()
    server.says()
    error = Error("INVALID_MESSAGE", "x" * 2000, fatal=True)
    assert server.hears(error) == error
    assert server.says() == []
    assert server.link.state is ServerState.CLOSED
    assert len(server.link.close_reason.encode()) <= 123


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_an_hour_off_is_told_once_and_corrected(ahead_ms: int) -> None:
    server = Server().opened(ahead_ms=ahead_ms)
    welcome, error = server.says()
    assert isinstance(welcome, Welcome)
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("CLOCK_SKEW", False)
    assert "3600 s ahead of" in error.message or "3600 s behind" in error.message
    assert ("ahead" in error.message) == (ahead_ms > 0)

    for _ in range(20):
        server.waits(5)
        server.beats(ahead_ms=ahead_ms)
    assert {type(message) for message in server.says()} == {HeartbeatAck}
    assert server.link.corrected(server.clock.wall + ahead_ms) == server.clock.wall

    server.beats()  # healed
    assert server.link.corrected(server.clock.wall) == server.clock.wall
    server.says()
    server.beats(ahead_ms=ahead_ms)  # and wrong again
    assert [type(message) for message in server.says()] == [HeartbeatAck, Error]


@pytest.mark.parametrize("ahead_ms", [0, 5000, -5000])
def test_small_differences_are_left_alone(ahead_ms: int) -> None:
    server = Server().opened(ahead_ms=ahead_ms)
    assert [type(message) for message in server.says()] == [Welcome]
    assert server.link.corrected(server.clock.wall + ahead_ms) == server.clock.wall + ahead_ms


def test_a_corrected_time_stays_a_time() -> None:
    server = Server().opened()
    server.hears(Heartbeat(1, MAX_TIMESTAMP))
    assert server.link.corrected(0) == 0
    server.hears(Heartbeat(2, 0))
    assert server.link.corrected(MAX_TIMESTAMP) == MAX_TIMESTAMP


def test_a_closed_link_does_nothing_any_more() -> None:
    server = Server().opened()
    server.link.close(CloseCode.SUPERSEDED, "A newer connection took over.")
    server.link.close(CloseCode.INTERNAL, "Too late.")
    server.says()

    assert server.link.next_tick() == math.inf
    server.waits(1000)
    assert server.hears(server.hello()) is None
    assert server.reads(b"\xff") is None
    server.welcomes()
    server.link.reject("X", "x")
    server.link.watch(interval=1.0, lease=1.0)
    server.link.acknowledge_inventory(1)
    server.link.refuse(Revoked("Revoked."))
    assert server.says() == []
    assert server.link.close_code == CloseCode.SUPERSEDED
    assert server.link.close_reason == "A newer connection took over."


@pytest.mark.parametrize("skew", [0, HOUR_MS, -HOUR_MS, 4000])
def test_a_sample_of_another_time_is_told_and_not_passed_on(skew: int) -> None:
    server = Server().opened(ahead_ms=skew)
    server.says()
    now = server.clock.wall + skew
    for at in (0, now - 70_000, now + 70_000, MAX_TIMESTAMP):
        assert server.hears(sample(at, gpus=0)) is None
        (error,) = server.says()
        assert isinstance(error, Error)
        assert (error.code, error.fatal) == ("INVALID_VALUE", False)
        assert error.message.startswith("sampled_at: expected")
    for at in (now - 50_000, now, now + 50_000):
        assert server.hears(sample(at, gpus=0)) is not None
    assert server.says() == []


def test_a_host_whose_clock_was_set_keeps_its_link() -> None:
    server = Server().opened()
    server.says()
    for _ in range(3 * MAX_INVALID_MESSAGES):
        server.waits(0.2)
        assert server.hears(server.sample(HOUR_MS)) is None
    assert server.link.state is ServerState.OPEN
    assert len(server.says()) <= REPLY_BURST + 20
    # The next heartbeat tells of it.
    server.beats(ahead_ms=HOUR_MS)
    assert server.hears(server.sample(HOUR_MS)) is not None


def gpus(*uuids: str) -> Metrics:
    cards = [GpuMetrics(index, uuid) for index, uuid in enumerate(uuids)]
    return Metrics(sampled_at=HandClock().wall, host=HostMetrics(), gpus=cards)


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (gpus("GPU-1"), "gpus[0].uuid"),
        (gpus("GPU-0", "GPU-0"), "gpus[1].uuid"),
        (gpus("GPU-0", "GPU-9\u202e"), "gpus[1].uuid"),
    ],
)
def test_gpus_that_are_not_in_the_inventory(said: Metrics, field: str) -> None:
    server = Server().opened()
    # What it has is not known yet: an inventory takes longer to read than a sample.
    assert server.hears(gpus("GPU-0")) is not None
    assert server.hears(inventory()) is not None
    server.says()
    for _ in range(2):
        assert server.hears(gpus("GPU-0")) is not None
        assert server.hears(said) is None
    first, second = server.says()
    assert isinstance(first, Error)
    assert first == second
    assert first.message.startswith(field)
    # An inventory without it.
    assert server.hears(replace(inventory(2), gpus=[])) is not None
    assert server.hears(gpus("GPU-0")) is None


def card(index: int, uuid: str, health: GpuHealth = GpuHealth.HEALTHY) -> GpuInventory:
    return GpuInventory(index=index, uuid=uuid, model="NVIDIA H100", health=health)


@pytest.mark.parametrize(
    ("addresses", "cards", "field"),
    [
        (["10.0.0.7", "nonsense"], [], "host.addresses[1].address"),
        (["010.0.0.7"], [], "host.addresses[0].address"),
        ([""], [], "host.addresses[0].address"),
        ([], [card(0, "GPU-0"), card(1, "GPU-0")], "gpus[1].uuid"),
        ([], [card(3, "GPU-0"), card(0, "GPU-1"), card(3, "GPU-2")], "gpus[2].index"),
    ],
)
def test_an_inventory_that_makes_no_sense(
    addresses: list[str], cards: list[GpuInventory], field: str
) -> None:
    server = Server().opened()
    server.says()
    host = HostInventory(
        hostname="node-1", addresses=[Address(each, AddressKind.ADDITIONAL) for each in addresses]
    )
    assert server.hears(Inventory(revision=1, host=host, gpus=cards)) is None
    (error,) = server.says()
    assert isinstance(error, Error)
    assert (error.code, error.fatal) == ("INVALID_VALUE", False)
    assert error.message.startswith(f"{field}: expected")


def test_a_card_that_fell_off_the_bus_may_have_anothers_index() -> None:
    server = Server().opened()
    cards = [card(3, "GPU-0", GpuHealth.UNHEALTHY), card(3, "GPU-1")]
    address = Address("fe80::1%eth0", AddressKind.ADDITIONAL)
    host = HostInventory(hostname="node-1", addresses=[address])
    assert server.hears(Inventory(revision=1, host=host, gpus=cards)) is not None

"""The agents' socket: who is let in, what is refused, and that a refusal costs nobody else."""

import asyncio
import contextlib
import time
import uuid
from typing import Any

import msgspec
import pytest
import structlog
from msgspec.structs import replace
from structlog.typing import EventDict
from websockets.exceptions import ConnectionClosed

from remotegpu_api.gateway import greetings
from remotegpu_api.gateway.connection import AgentConnection
from remotegpu_core.clock import now_ms
from remotegpu_core.models import AuditEvent, Gpu, Machine, Outcome
from remotegpu_protocol import server_link
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES, MAX_RETRY_AFTER
from remotegpu_protocol.messages import Challenge, Error, Hello
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE
from tests.api.host import Host, Link, enrolled, frame, inventory, sample, socket, stored
from tests.api.plane import Server
from tests.api.viewer import viewing
from tests.core.patience import eventually, until

MACHINE = (
    "query($id: ID!) { machine(id: $id) { presence health healthReasons lastSeenAt "
    "specs { hostname cpuModel } gpus { uuid model } "
    "latestMetrics { sampledAt gpus { uuid utilization processes { name } } } } }"
)


async def _machine(server: Server, admin: str, host: Host) -> dict[str, Any]:
    found: dict[str, Any] = (await server.ask(MACHINE, {"id": host.id}, token=admin))["machine"]
    return found


async def _refusal(host: Host, **opening: Any) -> tuple[int | None, Error, list[EventDict]]:
    """How a hello that is wrong somehow is refused."""
    with structlog.testing.capture_logs() as logs:
        async with host.dialled(opening=host.opening(**opening)) as link:
            code, _ = await link.closed()
        await asyncio.sleep(0.05)
    assert link.link.welcome is None
    warnings = [line for line in logs if line["log_level"] == "warning"]
    return code, link.of(Error)[-1], warnings


async def test_a_wrong_signature(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    impostor = Host(server)
    code, error, warnings = await _refusal(impostor, machine_id=host.machine_id)
    assert (code, error.code, len(warnings)) == (4401, "AUTHENTICATION_FAILED", 1)
    assert (await Machine.get()).epoch == 0


async def test_a_signature_of_another_connection(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    kept: list[Hello] = []

    def replayed(challenge: Challenge, clock: int) -> Hello:
        if not kept:
            hello = host.opening()(challenge, clock)
            assert isinstance(hello, Hello)
            kept.append(hello)
        return kept[0]

    async with host.connected(opening=replayed):
        pass
    async with host.dialled(opening=replayed) as link:
        assert (await link.closed())[0] == 4401
    assert (await Machine.get()).epoch == 1


async def test_an_unknown_machine(server: Server) -> None:
    for machine_id in ("01a20c88-19e0-7174-93fa-73f3257b6ddd", "no uuid", "1", "%s" * 20):
        code, error, warnings = await _refusal(Host(server), machine_id=machine_id)
        assert (code, error.code, len(warnings)) == (4401, "AUTHENTICATION_FAILED", 1)
        assert "no such machine" in error.message


async def test_a_wrong_origin(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    code, error, _ = await _refusal(host, origin="https://lure.example")
    assert (code, error.code) == (4401, "AUTHENTICATION_FAILED")
    assert server.origin in error.message


async def test_an_unknown_version(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")

    def newer(challenge: Challenge, clock: int) -> Hello:
        hello = host.opening()(challenge, clock)
        assert isinstance(hello, Hello)
        return replace(hello, versions=[77, 78])

    async with host.dialled(opening=newer) as link:
        assert (await link.closed())[0] == 4406
    assert "[77, 78]" in link.of(Error)[0].message


@pytest.mark.parametrize("subprotocol", [None, "graphql-transport-ws", "remotegpu.agent.v2"])
async def test_another_subprotocol(server: Server, subprotocol: str | None) -> None:
    async with socket(server, subprotocol=subprotocol) as websocket:
        async with asyncio.timeout(5):
            await websocket.wait_closed()
    assert websocket.close_code == 4406


HELLO_FIRST: list[tuple[bytes | str, int, str]] = [
    ("text", 4400, "INVALID_MESSAGE"),
    ("", 4400, "INVALID_MESSAGE"),
    (b"", 4400, "INVALID_MESSAGE"),
    (b"\xc1garbage", 4400, "INVALID_MESSAGE"),
    (b"\x91" * 100_000, 4400, "INVALID_MESSAGE"),
    (msgspec.msgpack.encode([1]), 4400, "INVALID_MESSAGE"),
    (msgspec.msgpack.encode({"type": "hello"}), 4400, "INVALID_MESSAGE"),
    (msgspec.msgpack.encode({"type": "command"}), 4400, "UNKNOWN_MESSAGE"),
    (msgspec.msgpack.encode({"type": "heartbeat", "sequence": 1, "clock": 1}), 4400,
     "UNEXPECTED_MESSAGE"),
    (frame(sample()), 4400, "UNEXPECTED_MESSAGE"),
    (frame(inventory("GPU-0")), 4400, "UNEXPECTED_MESSAGE"),
]  # fmt: skip


async def test_whatever_comes_before_the_hello_ends_the_link(server: Server) -> None:
    for said, code, error in HELLO_FIRST:
        received: list[Error] = []
        with structlog.testing.capture_logs() as logs:
            async with socket(server) as websocket:
                await websocket.send(said)
                with contextlib.suppress(ConnectionClosed):
                    async with asyncio.timeout(5):
                        while True:
                            decoded = msgspec.msgpack.decode(await websocket.recv(decode=False))
                            if decoded["type"] == "error":
                                received.append(Error(decoded["code"], decoded["message"]))
            assert websocket.close_code == code, said
            await until(lambda: not server.gateway._sockets)
        assert [e.code for e in received] == [error], said
        assert [line["event"] for line in logs] == ["agent.disconnected"], said


async def test_an_oversized_message_ends_the_link_with_1009(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        with contextlib.suppress(OSError):
            await link.send_raw(b"\x00" * (MAX_MESSAGE_BYTES + 1))
        assert (await link.closed())[0] == 1009
    async with host.connected() as link:
        assert link.epoch == 2


async def test_a_hello_in_an_open_link_is_refused_and_the_link_stays(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    said: list[Hello] = []

    def noted(challenge: Challenge, clock: int) -> Hello:
        hello = host.opening()(challenge, clock)
        assert isinstance(hello, Hello)
        said.append(hello)
        return hello

    async with host.connected(opening=noted) as link:
        await link.send_raw(msgspec.msgpack.encode(said[0]))
        await link.until(lambda: link.errors("UNEXPECTED_MESSAGE"))
        await link.send_inventory(inventory("GPU-0"))
    assert (await Machine.get()).epoch == 1


async def test_no_hello_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_link, "HELLO_TIMEOUT", 0.5)
    began = time.monotonic()
    async with socket(server) as websocket:
        async with asyncio.timeout(10):
            await websocket.wait_closed()
    assert websocket.close_code == 4408
    assert time.monotonic() - began < 3


async def test_a_full_gateway_sends_agents_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server.plane, "settings", server.plane.settings.model_copy(update={"max_agents": 1})
    )
    async with socket(server), socket(server) as second:
        async with asyncio.timeout(5):
            await second.wait_closed()
    assert second.close_code == 4429


async def test_beyond_the_greetings_in_progress_an_agent_is_told_when_to_come_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greetings, "MAX_GREETINGS", 1)
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with socket(server):
        async with socket(server) as second:
            error = msgspec.msgpack.decode(await second.recv(decode=False), type=Error)
            async with asyncio.timeout(5):
                await second.wait_closed()
        assert (second.close_code, error.code, error.fatal) == (4429, "OVERLOADED", True)
        assert error.retry_after is not None
        assert 1.0 <= error.retry_after <= MAX_RETRY_AFTER
    # Both a greeting that was given up and one that is over make room.
    gateway = server.gateway
    await until(lambda: not gateway.greetings.in_progress)
    async with host.connected():
        assert not gateway.greetings.in_progress
        async with socket(server) as third:
            message = msgspec.msgpack.decode(await third.recv(decode=False), type=Challenge)
            assert message.nonce


async def test_agents_are_told_over_how_long_to_spread_their_first_attempts(
    server: Server,
) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    await server.gateway._count_fleet()
    async with host.connected() as link:
        assert link.link.welcome is not None
        assert link.link.welcome.retry_spread == server.gateway.greetings.spread(1)


async def test_garbage_in_an_open_link_is_answered_and_the_link_stays(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        await link.send_raw("text")
        await link.send_raw(b"\xc1")
        await link.until(lambda: len(link.errors("INVALID_MESSAGE")) == 2)
        await link.send_raw(msgspec.msgpack.encode({"type": "hologram"}))
        await link.until(lambda: link.errors("UNKNOWN_MESSAGE"))
        await link.send(sample(utilization=7))
        await stored(server, host)
        # Not for ever.
        for _ in range(25):
            with contextlib.suppress(OSError):
                await link.send_raw(b"\xc1")
        assert (await link.closed())[0] == 4400


async def test_the_loop_is_told_of_what_agents_say(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[None] = []
    monkeypatch.setattr(server.state.gateway.pace, "took", lambda: told.append(None))
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected() as link:
        # Greetings and inventories are seldom, and wait for nobody.
        assert told == []
        for _ in range(3):
            await link.send(sample(now_ms()))
        await until(lambda: len(told) >= 3)


async def test_samples_are_taken_however_they_are_written(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    machine_id = uuid.UUID(host.machine_id)

    async def newest() -> int:
        known = (await server.plane.bus.live([machine_id]))[machine_id].sample
        return known.sampled_at if known is not None else 0

    async def arrives(at: int) -> None:
        async def arrived() -> bool:
            return await newest() == at

        await eventually(arrived)

    async with host.connected() as link:
        await link.send_inventory(inventory("GPU-0", "GPU-1"))
        at = now_ms()
        await link.send_raw(frame(sample(at)))
        await arrives(at)
        fields = msgspec.msgpack.decode(frame(sample(at + 1)))
        backwards = dict(reversed(list(fields.items())))
        await link.send_raw(msgspec.msgpack.encode(backwards))
        await arrives(at + 1)
        await link.send_raw(msgspec.msgpack.encode({**fields, "sampled_at": at + 2, "later": [1]}))
        await arrives(at + 2)
        whole = frame(sample(at + 3))
        await link.websocket.send([whole[:20], whole[20:21], whole[21:]])
        await arrives(at + 3)
        # A sample by its first name, and an inventory by its last.
        two_faced = msgspec.msgpack.encode({"type": "metrics"})[1:]
        honest = frame(inventory("GPU-0", revision=7))
        await link.send_raw(bytes([honest[0] + 1]) + two_faced + honest[1:])
        await link.until(lambda: len(link.errors("UNKNOWN_MESSAGE")) == 1)
        for wrong in ({"type": "metrics"}, {"type": "heartbeat"}, {"type": "metricses"}):
            await link.send_raw(msgspec.msgpack.encode(wrong))
        await link.until(lambda: len(link.errors("INVALID_MESSAGE")) == 2)
        await link.until(lambda: len(link.errors("UNKNOWN_MESSAGE")) == 2)
        await link.send_raw(frame(sample(at + 4)))
        await arrives(at + 4)
        # Not for ever, by this way neither.
        for _ in range(25):
            with contextlib.suppress(OSError):
                await link.send_raw(msgspec.msgpack.encode({"type": "metrics"}))
        assert (await link.closed())[0] == 4400


ABSURD: list[tuple[str, Any]] = [
    ("utilization", 101.0),
    ("utilization", -0.1),
    ("utilization", float("nan")),
    ("utilization", float("inf")),
    ("memory_used", -1),
    ("memory_used", 2**60),
    ("temperature", 65535.0),
    ("power", -5.0),
    ("power", 1e9),
    ("sm_clock", 2**31),
    ("fan_speed", 4294967295.0),
    ("ecc_corrected", -1),
    ("processes", [[2**40, None, None, None]]),
]


async def test_an_absurd_value_is_refused_and_the_link_stays(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        await link.send(sample(utilization=11))
        await stored(server, host)
        good = sample(utilization=99)
        for number, (name, value) in enumerate(ABSURD, 1):
            absurd = replace(good, gpus=[replace(good.gpus[0], **{name: value})])
            await link.send_raw(msgspec.msgpack.encode(absurd))
            await _refused(link, number)
            assert "metrics" in link.errors("INVALID_MESSAGE")[-1].message, name
        machine = await _machine(server, admin, host)
        assert machine["latestMetrics"]["gpus"][0]["utilization"] == 11.0
        assert machine["presence"] == "ONLINE"


async def _refused(link: Link, number: int) -> None:
    """Wait until the host was told of so many messages that could not be read."""
    await link.until(lambda: len(link.errors("INVALID_MESSAGE")) == number)


async def test_names_that_are_no_text_are_refused_and_strange_ones_are_not(
    server: Server,
) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        # Latin-1 where UTF-8 is due, in a sample and in an inventory.
        for said in (frame(sample()), frame(inventory("GPU-0", hostname="node"))):
            raw = said.replace(b"GPU-0", b"GPU-\xe9")
            assert raw != said
            await link.send_raw(raw)
        await link.until(lambda: len(link.errors("INVALID_MESSAGE")) == 2)
        # An escape sequence in what people will look at.
        await link.send_raw(
            msgspec.msgpack.encode(
                replace(inventory("GPU-0"), host=replace(inventory().host, cpu_model="\x1b[2J"))
            )
        )
        await link.until(lambda: len(link.errors("INVALID_MESSAGE")) == 3)
        good = sample(utilization=5)
        named = replace(
            good.gpus[0], uuid="GPU-é", processes=[[7, "\ud7ff\u202e日本\x00\n", "ü", 5]]
        )
        await link.send_inventory(inventory("GPU-é", hostname="gpü-日本"))
        await link.send_raw(msgspec.msgpack.encode(replace(good, gpus=[named])))
        await stored(server, host)
        machine = await _machine(server, admin, host)
        assert machine["latestMetrics"]["gpus"][0]["uuid"] == "GPU-é"
        assert machine["latestMetrics"]["gpus"][0]["processes"] is not None
        assert machine["specs"]["hostname"] == "gpü-日本"
        assert len(link.of(Error)) == 3


@pytest.mark.parametrize("offset", [3_600_000, -3_600_000])
async def test_an_hour_of_skew_is_corrected_and_told(server: Server, offset: int) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected(clock_offset=offset) as link, viewing(server, admin) as viewer:
        (error,) = await link.until(lambda: link.errors("CLOCK_SKEW"))
        assert "3600 s" in error.message
        assert not error.fatal
        operation = await viewer.subscribe(
            LIVE, {"machineIds": [host.id]}, operation="MachineMetrics"
        )
        before = now_ms()
        await link.send(sample(now_ms() + offset))
        await operation.data()
        latest = (await server.plane.bus.live([uuid.UUID(host.machine_id)])).popitem()[1]
        assert latest.sample is not None
        assert before - 500 <= latest.sample.sampled_at <= now_ms() + 500
        await link.send_inventory(inventory("GPU-0"))
        machine = await _machine(server, admin, host)
        assert machine["health"] == "DEGRADED"
        assert "clock" in machine["healthReasons"][0]


async def test_a_newer_link_takes_over_and_the_older_says_no_more(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as old, viewing(server, admin) as viewer:
        await old.send_inventory(inventory("GPU-0", hostname="old"))
        operation = await viewer.subscribe(
            LIVE, {"machineIds": [host.id]}, operation="MachineMetrics"
        )
        async with host.connected() as new:
            assert (old.epoch, new.epoch) == (1, 2)
            await new.send_inventory(inventory("GPU-0", "GPU-1", hostname="new"))
            await new.send(sample(utilization=22))
            code, reason = await old.closed(within=2)
            assert code == 4409
            assert "newer connection" in (reason or "")
            assert old.errors("SUPERSEDED")
            event = (await operation.data())["machineMetrics"]
            assert event["gpus"][0]["utilization"] == 22.0
            await new.send_inventory(inventory("GPU-0", "GPU-1", hostname="new", revision=2))
            machine = await _machine(server, admin, host)
            assert machine["specs"]["hostname"] == "new"
            assert machine["presence"] == "ONLINE"
            assert machine["latestMetrics"]["gpus"][0]["utilization"] == 22.0


async def test_what_an_older_link_still_says_changes_nothing(
    any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was superseded, and does not get to hear of it yet."""
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")

    async def deaf(*_: object) -> None:
        pass

    async with host.connected() as old, viewing(server, admin) as viewer:
        operation = await viewer.subscribe(
            LIVE, {"machineIds": [host.id]}, operation="MachineMetrics"
        )
        await old.send_inventory(inventory("GPU-0", hostname="old"))
        monkeypatch.setattr(AgentConnection, "give_way", deaf)
        async with host.connected() as new:
            await new.send_inventory(inventory("GPU-0", hostname="new"))
            await new.send(sample(gpus=1, utilization=22))
            await operation.data()
            await old.send(sample(now_ms() + 50, gpus=1, utilization=99))
            await operation.silent(0.5)
            machine = await _machine(server, admin, host)
            assert machine["latestMetrics"]["gpus"][0]["utilization"] == 22.0
            old.link.send_inventory(
                inventory("GPU-9", hostname="old", revision=7), now=time.monotonic()
            )
            await old._flush()
            assert (await old.closed(within=2))[0] == 4409
            machine = await _machine(server, admin, host)
            assert machine["specs"]["hostname"] == "new"
            assert [gpu["uuid"] for gpu in machine["gpus"]] == ["GPU-0"]
            assert machine["presence"] == "ONLINE"


async def test_a_gpu_of_another_machine_is_left_out_and_explained(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    one, two = await make_hosts(server, admin, "gpu-01", "gpu-02")
    async with one.connected() as first, two.connected() as second:
        await first.send_inventory(inventory("GPU-0", "GPU-1"))
        await second.send_inventory(inventory("GPU-1", "GPU-2"))
        (error,) = second.errors("HARDWARE_CONFLICT")
        assert "GPU-1" in error.message
        assert first.errors("HARDWARE_CONFLICT") == []
        machine = await _machine(server, admin, two)
        assert [gpu["uuid"] for gpu in machine["gpus"]] == ["GPU-2"]
        assert machine["health"] == "DEGRADED"
        assert "GPU-1" in machine["healthReasons"][0]
        event = await AuditEvent.get(action="reportInventory", outcome=Outcome.FAILED)
        assert event.target_id == uuid.UUID(two.machine_id)
        # Moved to the other host: it is there as soon as the first reports without it.
        await first.send_inventory(inventory("GPU-0", revision=2))
        await second.send_inventory(inventory("GPU-1", "GPU-2", revision=2))
        machine = await _machine(server, admin, two)
        assert [gpu["uuid"] for gpu in machine["gpus"]] == ["GPU-1", "GPU-2"]
        assert machine["health"] == "HEALTHY"
    assert await Gpu.filter(uuid="GPU-1", removed_at=None).count() == 1


async def test_one_agent_that_misbehaves_costs_the_others_nothing(server: Server) -> None:
    admin = await server.sign_in()
    good, bad = await make_hosts(server, admin, "gpu-01", "gpu-02")
    async with good.connected() as link, viewing(server, admin) as viewer:
        operation = await viewer.subscribe(
            LIVE, {"machineIds": [good.id]}, operation="MachineMetrics"
        )
        async with bad.dialled() as noisy:
            await noisy.open()
            for _ in range(500):
                with contextlib.suppress(OSError):
                    await noisy.send_raw(frame(sample(gpus=0)))
            await noisy.until(lambda: noisy.errors("RATE_LIMITED"))
            await link.send(sample(utilization=3))
            event = (await operation.data(within=3))["machineMetrics"]
            assert event["gpus"][0]["utilization"] == 3.0
            assert not noisy.websocket.close_code

"""graphql-transport-ws, kept and broken: each breach has its close code, one log line, no more."""

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from remotegpu_api.live import socket as live_socket
from remotegpu_api.live.messages import MAX_ID, MAX_MESSAGE
from tests.api.documents import CREATE_USER, LIVE, VIEWER
from tests.api.plane import ADMIN, Server
from tests.api.viewer import PATIENCE, Ended, Viewer, dialled, viewing
from tests.core.patience import until

INIT = json.dumps({"type": "connection_init"})


async def _closed(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the server closes."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await websocket.recv()
    return websocket.close_code, websocket.close_reason


def _violations(logs: list[EventDict]) -> list[EventDict]:
    return [line for line in logs if line["event"].startswith(("live.", "websocket."))]


BAD_FRAMES: list[str | bytes] = [
    "[1]",
    "5",
    "null",
    "true",
    '"connection_init"',
    "",
    "{",
    "not JSON",
    "{}",
    "[" * 50_000,
    '{"type": null}',
    '{"type": 5}',
    '{"type": ["ping"]}',
    '{"type": "start", "id": "1", "payload": {}}',
    '{"type": "connection_ack"}',
    '{"type": "next", "id": "1", "payload": {}}',
    '{"type": "connection_init", "payload": 5}',
    '{"type": "connection_init", "payload": "token"}',
    '{"type": "connection_init", "payload": ["x"]}',
    '{"type": "connection_init", "payload": {"token": 5}}',
    '{"type": "connection_init", "payload": {"token": ["x"]}}',
    '{"type": "ping", "payload": 1}',
    '{"type": "pong", "payload": []}',
    '{"type": "complete"}',
    '{"type": "complete", "id": 1}',
    '{"type": "complete", "id": ""}',
    '{"type": "subscribe"}',
    '{"type": "subscribe", "id": "1"}',
    '{"type": "subscribe", "id": "1", "payload": null}',
    '{"type": "subscribe", "id": "1", "payload": "{ __typename }"}',
    '{"type": "subscribe", "id": null, "payload": {"query": "{ __typename }"}}',
    '{"type": "subscribe", "id": 1, "payload": {"query": "{ __typename }"}}',
    json.dumps({"type": "subscribe", "id": "x" * (MAX_ID + 1), "payload": {"query": "{ a }"}}),
    b"",
    b"\x00\xff",
    INIT.encode(),
]


async def test_a_malformed_frame_closes_with_4400(server: Server) -> None:
    for frame in BAD_FRAMES:
        with structlog.testing.capture_logs() as logs:
            async with dialled(server) as websocket:
                await websocket.send(frame)
                code, reason = await _closed(websocket)
        assert code == 4400, frame
        assert reason, frame
        (line,) = _violations(logs)
        assert (line["event"], line["code"], line["reason"]) == (
            "live.protocol_violation",
            4400,
            reason,
        )
        assert "exc_info" not in line


BAD_PAYLOADS: list[Any] = [
    {},
    {"query": None},
    {"query": 5},
    {"query": ""},
    {"query": ["{ __typename }"]},
    {"query": "{ __typename }", "variables": [1]},
    {"query": "{ __typename }", "variables": "x"},
    {"query": "{ __typename }", "operationName": 7},
    {"query": "{ __typename }", "extensions": 7},
    [],
    5,
]


async def test_a_malformed_subscribe_closes_with_4400(server: Server) -> None:
    for payload in BAD_PAYLOADS:
        with structlog.testing.capture_logs() as logs:
            async with viewing(server) as viewer:
                await viewer.send({"type": "subscribe", "id": "1", "payload": payload})
                assert (await viewer.closed())[0] == 4400, payload
        assert len(_violations(logs)) == 1


async def _breach(server: Server, *frames: str) -> tuple[int | None, str | None, list[EventDict]]:
    with structlog.testing.capture_logs() as logs:
        async with dialled(server) as websocket:
            for frame in frames:
                await websocket.send(frame)
            code, reason = await _closed(websocket)
    return code, reason, _violations(logs)


SUBSCRIBE = json.dumps({"type": "subscribe", "id": "1", "payload": {"query": "{ __typename }"}})
FOLLOW = json.dumps(
    {
        "type": "subscribe",
        "id": "1",
        "payload": {"query": LIVE, "operationName": "FleetPulse", "variables": {}},
    }
)


async def test_subscribing_before_init_closes_with_4401(server: Server) -> None:
    code, reason, lines = await _breach(server, SUBSCRIBE)
    assert (code, reason, len(lines)) == (4401, "Unauthorized", 1)


async def test_a_second_init_closes_with_4429(server: Server) -> None:
    code, reason, lines = await _breach(server, INIT, INIT)
    assert (code, reason, len(lines)) == (4429, "Too many initialisation requests", 1)


async def test_a_bad_token_closes_with_4403(server: Server) -> None:
    init = json.dumps({"type": "connection_init", "payload": {"token": "rgs_nonsense"}})
    code, reason, lines = await _breach(server, init)
    assert (code, reason, len(lines)) == (4403, "Forbidden", 1)
    assert "rgs_nonsense" not in str(lines)


async def test_a_bad_bearer_token_closes_with_4403(server: Server) -> None:
    async with dialled(server, headers={"Authorization": "Bearer rgs_nonsense"}) as websocket:
        await websocket.send(INIT)
        assert (await _closed(websocket))[0] == 4403


async def test_a_duplicate_id_closes_with_4409(server: Server) -> None:
    admin = await server.sign_in()
    init = json.dumps({"type": "connection_init", "payload": {"token": admin}})
    code, reason, lines = await _breach(server, init, FOLLOW, FOLLOW)
    assert (code, reason, len(lines)) == (4409, "Subscriber for 1 already exists", 1)


async def test_a_reason_fits_its_close_frame_whatever_the_id_is(server: Server) -> None:
    admin = await server.sign_in()
    init = json.dumps({"type": "connection_init", "payload": {"token": admin}})
    follow = FOLLOW.replace('"id": "1"', f'"id": "{"ü" * MAX_ID}"')
    code, reason, lines = await _breach(server, init, follow, follow)
    assert (code, len(lines)) == (4409, 1)
    assert (reason or "").startswith("Subscriber for ü")


async def test_another_subprotocol_closes_with_4406(server: Server) -> None:
    names: tuple[tuple[str, ...], ...] = ((), ("graphql-ws",), ("graphql-transport-ws2", "x"))
    for subprotocols in names:
        async with dialled(
            server, subprotocols=tuple(Subprotocol(name) for name in subprotocols)
        ) as websocket:
            code, reason = await _closed(websocket)
        assert code == 4406
        assert "graphql-transport-ws" in (reason or "")


async def test_no_init_closes_with_4408(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live_socket.INIT_TIMEOUT == 5.0
    monkeypatch.setattr(live_socket, "INIT_TIMEOUT", 0.3)
    began = time.monotonic()
    async with dialled(server) as websocket:
        # Talking is no initialisation.
        await websocket.send('{"type": "ping"}')
        assert (await _closed(websocket))[0] == 4408
    assert 0.25 < time.monotonic() - began < 2


async def test_an_initialised_socket_outlives_the_timer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_socket, "INIT_TIMEOUT", 0.2)
    async with viewing(server) as viewer:
        await asyncio.sleep(0.4)
        operation = await viewer.subscribe("{ __typename }")
        assert await operation.data() == {"__typename": "Query"}


async def test_an_oversized_message_closes_with_1009(server: Server) -> None:
    filler = json.dumps({"type": "ping", "payload": {"x": ""}})
    fits = filler[:-3] + "y" * (MAX_MESSAGE - len(filler)) + filler[-3:]
    assert len(fits) == MAX_MESSAGE
    async with dialled(server) as websocket:
        await websocket.send(fits)
        assert json.loads(await websocket.recv())["type"] == "pong"
    code, _, lines = await _breach(server, fits.replace("yy", "yyy", 1))
    assert (code, len(lines)) == (1009, 1)
    # Characters are not bytes.
    wide = filler[:-3] + "ä" * (MAX_MESSAGE // 2) + filler[-3:]
    assert (await _breach(server, wide))[0] == 1009
    # Beyond what the server reads at all.
    code, _, _ = await _breach(server, "y" * 600_000)
    assert code == 1009


async def test_bytes_that_are_no_text_close_with_1007(server: Server) -> None:
    with structlog.testing.capture_logs() as logs:
        async with dialled(server) as websocket:
            # A text frame of the bytes FF FE, masked with zeros.
            websocket.transport.write(b"\x81\x82\x00\x00\x00\x00\xff\xfe")
            assert (await _closed(websocket))[0] == 1007
    assert [line["event"] for line in logs] == ["websocket.refused"]


async def test_ping_gives_back_its_payload(server: Server) -> None:
    async with viewing(server) as viewer:
        await viewer.send({"type": "ping"})
        await viewer.send({"type": "ping", "payload": {"sent": [1, None, "ü"]}})
        await viewer.send({"type": "pong", "payload": {"unasked": True}})
        await viewer.send({"type": "ping", "payload": None})
        pongs = [await asyncio.wait_for(viewer.pongs.get(), PATIENCE) for _ in range(3)]
    assert pongs == [
        {"type": "pong"},
        {"type": "pong", "payload": {"sent": [1, None, "ü"]}},
        {"type": "pong"},
    ]


async def test_queries_and_mutations_run_over_the_socket(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        query = await viewer.subscribe(VIEWER)
        assert (await query.data())["viewer"]["user"]["username"] == ADMIN
        assert (await query.end()).kind == "complete"
        mutation = await viewer.subscribe(
            CREATE_USER,
            {"input": {"username": "eve", "password": "eve-Passw0rd-1", "role": "USER"}},
            operation="CreateUser",
        )
        assert (await mutation.data())["createUser"]["user"]["username"] == "eve"
        assert (await mutation.end()).kind == "complete"
    assert await server.sign_in("eve", "eve-Passw0rd-1")


async def test_what_cannot_run_is_an_error_message(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        for query, variables, code in (
            ("{ viewer {", {}, "GRAPHQL_PARSE_FAILED"),
            ("{ noSuchField }", {}, "GRAPHQL_VALIDATION_FAILED"),
            ("subscription { noSuchField }", {}, "GRAPHQL_VALIDATION_FAILED"),
            ("query($n: Int) { machines(first: $n) { totalCount } }", {"n": "x"}, "INVALID_INPUT"),
            (LIVE, {"machineIds": 5.5}, None),
            (LIVE, {"machineIds": []}, "INVALID_INPUT"),
            (LIVE, {"machineIds": ["nonsense"]}, "NOT_FOUND"),
        ):
            operation = await viewer.subscribe(
                query, variables, operation="MachineMetrics" if query == LIVE else None
            )
            with pytest.raises(Ended) as caught:
                await operation.next()
            assert caught.value.kind == "error"
            error = caught.value.errors[0]
            assert error["extensions"]["code"] == (code or "INVALID_INPUT")
        # The socket is none the worse for it.
        operation = await viewer.subscribe("{ __typename }")
        assert await operation.data() == {"__typename": "Query"}


async def test_a_field_that_fails_is_a_result(server: Server) -> None:
    async with viewing(server) as viewer:
        operation = await viewer.subscribe(VIEWER)
        payload = await operation.next()
        assert payload["data"] == {"viewer": None}
        assert payload["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        assert (await operation.end()).kind == "complete"


async def test_nobody_watches_without_signing_in(server: Server) -> None:
    documents: tuple[tuple[str, dict[str, Any]], ...] = (
        ("MachineMetrics", {"machineIds": ["TWFjaGluZTow"]}),
        ("MachineChanges", {}),
        ("FleetPulse", {}),
    )
    async with viewing(server) as viewer:
        for operation, variables in documents:
            following = await viewer.subscribe(LIVE, variables, operation=operation)
            with pytest.raises(Ended) as caught:
                await following.next()
            assert caught.value.kind == "error"
            assert caught.value.errors[0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert server.hub.groups == {}


async def test_twenty_operations_and_no_more(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        running = [await viewer.subscribe(LIVE, operation="FleetPulse") for _ in range(20)]
        for operation in running:
            await operation.data()
        refused = await viewer.subscribe(LIVE, operation="FleetPulse")
        with pytest.raises(Ended) as caught:
            await refused.next()
        assert caught.value.errors[0]["extensions"]["code"] == "LIMIT_EXCEEDED"
        # One that ends makes room for another.
        await viewer.complete(running[0])
        again = await viewer.subscribe(LIVE, operation="FleetPulse")
        await again.data()


async def test_complete_frees_the_id(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        for _ in range(3):
            operation = await viewer.subscribe(LIVE, operation="FleetPulse", operation_id="same")
            await operation.data()
            await viewer.complete(operation)
        # So does an end by the server, and completing what is unknown is no error.
        for _ in range(2):
            operation = await viewer.subscribe("{ __typename }", operation_id="same")
            await operation.data()
            assert (await operation.end()).kind == "complete"
            await viewer.complete(operation)
        await viewer.send({"type": "complete", "id": "never heard of"})
        operation = await viewer.subscribe("{ __typename }")
        assert await operation.data() == {"__typename": "Query"}


async def test_any_text_is_an_id(server: Server) -> None:
    admin = await server.sign_in()
    async with viewing(server, admin) as viewer:
        for operation_id in ('"', "\\", "ü €", "</script>", "\u2028", "x" * MAX_ID):
            operation = await viewer.subscribe(
                LIVE, operation="FleetPulse", operation_id=operation_id
            )
            await operation.data()


async def test_a_viewer_that_vanishes_leaves_nothing_behind(server: Server) -> None:
    admin = await server.sign_in()
    async with dialled(server) as websocket:
        viewer = Viewer(websocket)
        await viewer.init(admin)
        operation = await viewer.subscribe(LIVE, operation="FleetPulse")
        await operation.data()
        assert len(server.hub.sockets) == len(server.hub.groups) == 1
        websocket.transport.abort()
        await until(lambda: not server.hub.sockets and not server.hub.groups)


async def test_a_full_server_sends_viewers_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with viewing(server):
        monkeypatch.setattr(
            server.hub.plane,
            "settings",
            server.plane.settings.model_copy(update={"max_sockets": 1}),
        )
        async with dialled(server) as websocket:
            # A place is taken once it is known whose.
            await websocket.send(INIT)
            assert (await _closed(websocket))[0] == 1013

"""What is too much is refused with a clear error, at the first one too many, and nothing grows."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from remotegpu_api.web import admission
from remotegpu_core.actor import anonymous
from remotegpu_core.bus.connection import connect
from remotegpu_core.rates import Rates
from remotegpu_graphql.engine import Operation
from remotegpu_graphql.ids import decode_id
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE, SIGN_IN
from tests.api.host import socket
from tests.api.plane import Backend, Json, Server, serving
from tests.api.viewer import PATIENCE, Ended, dialled, viewing
from tests.core.patience import eventually, until

TYPENAME = "{ __typename }"


@pytest.fixture
def limited(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set limits of a running server, which reads them anew for everyone who comes."""

    unlimited = server.plane.settings

    def limit(**settings: int) -> None:
        changed = unlimited.model_copy(update=settings)
        monkeypatch.setattr(server.plane, "settings", changed)
        server.plane.rates._settings = changed

    return limit  # type: ignore[return-value]  # a function


async def _close(websocket: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(PATIENCE):
        await websocket.wait_closed()
    return websocket.close_code, websocket.close_reason


async def test_sockets_in_all_and_of_an_address(server: Server, limited: Any) -> None:
    """Places are kept for users: others have half of them."""
    admin = await server.sign_in()
    for settings, reason in (
        (
            {"max_sockets": 4},
            "Too many live viewers without sign-in, 2 at a time: try again later.",
        ),
        (
            {"max_sockets_per_address": 2},
            "Too many live viewers without sign-in of one address, 2 at a time: try again later.",
        ),
    ):
        limited(**settings)
        async with viewing(server), viewing(server) as fits, dialled(server) as third:
            await third.send(json.dumps({"type": "connection_init"}))
            assert await _close(third) == (1013, reason)
            async with viewing(server, admin), viewing(server, admin):
                pass
            await fits.send({"type": "ping"})
            await asyncio.wait_for(fits.pongs.get(), PATIENCE)
        await until(lambda: not server.hub.of_strangers.taken and not server.hub.of_users.taken)
    limited(max_sockets=2)
    async with viewing(server, admin), viewing(server, admin), dialled(server) as third:
        await third.send(json.dumps({"type": "connection_init", "payload": {"token": admin}}))
        assert (await _close(third))[0] == 1013


async def test_sockets_that_say_nothing_keep_nobody_out(server: Server, limited: Any) -> None:
    """The one that was awaited longest gives way, long before its time is up."""
    admin = await server.sign_in()
    for settings in ({"max_sockets": 2}, {"max_sockets_per_address": 2}):
        limited(**settings)
        async with dialled(server) as first, dialled(server) as second:
            await until(lambda: len(server.hub.arrivals) == 2)
            async with viewing(server, admin):
                assert (await _close(first))[0] == 4408
            assert second.close_code is None
        await until(lambda: not server.hub.arrivals and not server.hub.of_users.taken)


async def test_sockets_of_a_user(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    _, somebody = await server.make_user(admin, "somebody")
    again = await server.sign_in()
    limited(max_sockets_per_user=2)
    async with viewing(server, admin), viewing(server, again), dialled(server) as third:
        await third.send(json.dumps({"type": "connection_init", "payload": {"token": admin}}))
        assert await _close(third) == (
            1013,
            "Too many live viewers of one user, 2 at a time: try again later.",
        )
        async with viewing(server, somebody), viewing(server), viewing(server):
            pass
    await until(lambda: not server.hub.of_users.taken)
    async with viewing(server, admin):
        pass


async def test_agents_of_an_address(server: Server, limited: Any) -> None:
    limited(max_agents_per_address=2)
    async with socket(server), socket(server), socket(server) as third:
        assert await _close(third) == (
            4429,
            "Too many agents of one address, 2 at a time: try again later.",
        )
    await until(lambda: not server.gateway._sockets)
    async with socket(server) as again:
        await again.recv()


async def test_operations_in_all(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    limited(max_operations=3)
    async with viewing(server, admin) as one, viewing(server, admin) as two:
        running = [await one.subscribe(LIVE, operation="FleetPulse") for _ in range(2)]
        running += [await two.subscribe(LIVE, operation="FleetPulse")]
        for operation in running:
            await operation.data()
        refused = await (await two.subscribe(LIVE, operation="FleetPulse")).end()
        (error,) = refused.errors
        assert (refused.kind, error["extensions"]["code"]) == ("error", "OVERLOADED")
        assert error["extensions"]["retryAfter"] == 1
        assert "3 operations at most" in error["message"]
        await one.complete(running[0])
        await until(lambda: server.hub.running == 2)
        await (await two.subscribe(LIVE, operation="FleetPulse")).data()
    await until(lambda: not server.hub.sockets)
    assert server.hub.running == 0


async def test_however_operations_end_they_are_not_counted_any_more(server: Server) -> None:
    admin = await server.sign_in()
    (host,) = await make_hosts(server, admin, "gpu-01")
    async with viewing(server, admin) as viewer:
        for query in (TYPENAME, "{ viewer { user { id } } }"):
            with contextlib.suppress(Ended):
                await (await viewer.subscribe(query)).end()
        failed = await viewer.subscribe(LIVE, {"machineIds": ["x"]}, operation="MachineMetrics")
        assert (await failed.end()).kind == "error"
        await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation="MachineMetrics")
        await until(lambda: server.hub.running == 1)
        await viewer.send({"type": "connection_init"})
        assert (await viewer.closed())[0] == 4429
    await until(lambda: server.hub.running == 0)


@contextlib.asynccontextmanager
async def _unfinished(
    server: Server, *, token: str | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    """A request whose body does not come to an end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    try:
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            + bearer.encode()
            + b"Content-Length: 1000\r\n\r\n{"
        )
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _told(response: httpx.Response, status: int, code: str) -> Json:
    assert response.status_code == status, response.text
    assert int(response.headers["Retry-After"]) >= 1
    body = response.json()
    assert "data" not in body
    (error,) = body["errors"]
    assert error["extensions"]["code"] == code
    assert error["extensions"]["retryAfter"] == int(response.headers["Retry-After"])
    found: Json = error
    return found


async def test_requests_in_all_and_of_an_address(server: Server, limited: Any) -> None:
    """Places are kept for users: others have half of them."""
    admin = await server.sign_in()
    strangers, users = server.state.anonymous_requests, server.state.requests
    for settings, holders in (
        ({"max_requests": 4}, ("192.0.2.1", "192.0.2.2")),
        ({"max_requests_per_address": 2}, ("127.0.0.1", "127.0.0.1")),
    ):
        limited(**settings)
        with strangers.take(holders[0], total=9, each=9), strangers.take(
            holders[1], total=9, each=9
        ):  # fmt: skip
            error = _told(await server.post(TYPENAME), 503, "OVERLOADED")
            assert "2 at a time" in error["message"]
            signing_in = await server.http.post(
                "/sign-in", json={"username": "admin", "password": "guess"}
            )
            assert (signing_in.status_code, signing_in.headers["Retry-After"]) == (503, "1")
            assert (await server.post(TYPENAME, token=admin)).status_code == 200
            # Whoever watches over the server is not turned away.
            assert (await server.http.get("/healthz")).status_code == 200
            assert (await server.http.get("/metrics")).status_code == 200
            with users.take("ada", total=9, each=9), users.take("bob", total=9, each=9):
                status = (await server.post(TYPENAME, token=admin)).status_code
                assert status == (503 if "max_requests" in settings else 200)
        assert (await server.post(TYPENAME)).status_code == 200


async def test_requests_of_a_user(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    ada_id, ada = await server.make_user(admin, "ada")
    limited(max_requests_per_address=1)
    holder = decode_id(ada_id, "User", field="id")
    with server.state.requests.take(holder, total=9, each=9):
        error = _told(await server.post(TYPENAME, token=ada), 503, "OVERLOADED")
        assert error["message"].startswith("Too many requests of one user, 1 at a time")
        assert (await server.post(TYPENAME, token=admin)).status_code == 200


@pytest.mark.parametrize("bound", ["MAX_BODIES", "MAX_BODIES_EACH"])
async def test_bodies_that_do_not_end_keep_nobody_out(
    server: Server, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """They take no places, and the one that was awaited longest gives way to the next."""
    admin = await server.sign_in()
    monkeypatch.setattr(admission, bound, 2)
    async with _unfinished(server) as first, _unfinished(server) as second:
        await until(lambda: len(server.state.anonymous_bodies) == 2)
        assert server.state.anonymous_requests.taken == 0
        async with _unfinished(server, token=admin):
            # Those of users are others.
            await until(lambda: len(server.state.bodies) == 1)
        async with _unfinished(server):
            answer = await asyncio.wait_for(first.readline(), PATIENCE)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert (await server.post(TYPENAME)).status_code == 200
            answer = await asyncio.wait_for(second.readline(), PATIENCE)
            assert answer.startswith(b"HTTP/1.1 408 ")
    await until(lambda: not server.state.anonymous_bodies and not server.state.bodies)


async def test_a_body_that_never_ends_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BODY_TIMEOUT", 0.2)
    async with _unfinished(server) as reader:
        answer = await asyncio.wait_for(reader.readline(), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_sign_ins_have_a_rate_of_their_own(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    limited(anonymous_rate_requests=3, sign_in_rate_requests=5)
    for _ in range(3):
        assert (await server.post(TYPENAME)).status_code == 200
    _told(await server.post(TYPENAME), 429, "RATE_LIMITED")
    # One was above; two more as a mutation, one that only looks like one, one with the page.
    await server.sign_in()
    await server.sign_in()
    form = {"username": "admin", "password": "correct-horse-battery-9"}
    async with viewing(server) as viewer:
        ended = await (await viewer.subscribe(TYPENAME)).end()
        assert ended.errors[0]["extensions"]["code"] == "RATE_LIMITED"
        assert (await (await viewer.subscribe(f"{{ signIn: {TYPENAME} }}")).end()).kind == "error"
    assert (await server.http.post("/sign-in", json=form)).status_code == 204
    assert (await server.http.post("/sign-in", json=form)).status_code == 429
    server.http.cookies.clear()
    error = _told(await server.post(SIGN_IN, form), 429, "RATE_LIMITED")
    assert error["message"].startswith("An address without sign-in has at most 5 sign-ins a minute")
    assert (await server.post(TYPENAME, token=admin)).status_code == 200


@pytest.mark.parametrize("alias", ["", "x: "])
async def test_what_is_more_than_a_sign_in_counts_as_other_requests_do(
    server: Server, limited: Any, alias: str
) -> None:
    limited(anonymous_rate_requests=1)
    sign_in = f'{alias}signIn(input: {{username: "x", password: "y"}}) {{ token }}'
    more = (
        f"mutation {{ {sign_in} signOut {{ user {{ id }} }} }}",
        f"mutation {{ ...Rest }} fragment Rest on Mutation {{ {sign_in} }}",
        '{ signIn: __typename }',
        '{ __typename # signIn\n }',
    )  # fmt: skip
    assert (await server.post(more[0])).status_code == 200
    for document in more:
        _told(await server.post(document), 429, "RATE_LIMITED")
    assert (await server.post(f"mutation {{ {sign_in} __typename }}")).status_code == 200


async def test_new_documents_are_read_one_in_a_turn_of_the_loop(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, read_in = 0, dict[str, list[int]]()
    prepare = server.state.engine.prepare

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def noted(source: str, name: str | None, *, signed_in: bool) -> Operation:
        read_in.setdefault(source.split("#")[1][:4], []).append(turns)
        return prepare(source, name, signed_in=signed_in)

    monkeypatch.setattr(server.state.engine, "prepare", noted)
    counting = asyncio.create_task(count_turns())
    admin = await server.sign_in()
    user = {"Authorization": f"Bearer {admin}"}
    read_in.clear()
    sending = [
        server.http.post("/graphql", json={"query": f"{TYPENAME} #{kind}{number}"}, headers=headers)
        for kind, headers in (("user", user), ("none", {}))
        for number in range(8)
    ]
    answers = await asyncio.gather(*sending)
    counting.cancel()
    assert {answer.status_code for answer in answers} == {200}
    for kind in ("user", "none"):
        assert len(set(read_in[kind])) == len(read_in[kind]) == 8


async def test_rates_over_http(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    limited(rate_requests=2, anonymous_rate_requests=3)
    assert (await server.post(TYPENAME, token=admin)).status_code == 200
    # What cannot run counts too: it has to be read all the same.
    assert (await server.post("{", token=admin)).status_code == 200
    error = _told(await server.post(TYPENAME, token=admin), 429, "RATE_LIMITED")
    assert error["message"].startswith("A user has at most 2 requests a minute. Try again in ")
    # A token that is none counts as nobody's.
    for _ in range(2):
        assert (await server.post(TYPENAME)).status_code == 200
    assert (await server.post(TYPENAME, token="no such token")).status_code == 401
    _told(await server.post(TYPENAME, token="no such token"), 429, "RATE_LIMITED")
    _told(await server.post(TYPENAME), 429, "RATE_LIMITED")


async def test_cost_over_http(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    ten = "{ machines(first: 10) { edges { node { id } } } }"
    limited(rate_cost=20)
    for _ in range(2):
        response = await server.post(ten, token=admin)
        assert response.json()["extensions"]["cost"] == 10
    _told(await server.post(ten, token=admin), 429, "RATE_LIMITED")
    assert (await server.post(TYPENAME, token=admin)).status_code == 200


async def test_rates_over_websocket(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    limited(rate_requests=3, rate_cost=20)
    async with viewing(server, admin) as viewer:
        pulse = await viewer.subscribe(LIVE, operation="FleetPulse")
        await pulse.data()
        costly = await (
            await viewer.subscribe("{ machines(first: 21) { edges { node { id } } } }")
        ).end()
        assert (await (await viewer.subscribe(TYPENAME)).end()).kind == "complete"
        often = await (await viewer.subscribe(TYPENAME)).end()
        for ended in (costly, often):
            (error,) = ended.errors
            assert (ended.kind, error["extensions"]["code"]) == ("error", "RATE_LIMITED")
            assert error["extensions"]["retryAfter"] >= 1
        assert "This alone is 21: ask for less" in costly.errors[0]["message"]
        # The socket and what runs on it go on.
        await viewer.send({"type": "ping"})
        await asyncio.wait_for(viewer.pongs.get(), PATIENCE)
        assert not pulse.has_ended


async def test_another_replica_counts_too(scaled_out: Backend, tmp_path: Path) -> None:
    settings = {"anonymous_rate_requests": 3}
    async with serving(scaled_out, tmp_path / "state", **settings) as server:
        redis = connect(scaled_out.redis_url)
        elsewhere = Rates(server.plane.settings, redis)
        elsewhere.start()
        for _ in range(2):
            elsewhere.request(anonymous("127.0.0.1"))
        await until(lambda: not elsewhere._untold)
        await elsewhere.stop()
        await redis.aclose()
        assert (await server.post(TYPENAME)).status_code == 200

        async def refused() -> bool:
            # What was counted elsewhere comes with the next exchange.
            return (await server.post(TYPENAME)).status_code == 429

        await eventually(refused)
        assert server.plane.rates._callers["address:127.0.0.1"].now.requests <= 5

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
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE
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
    """Those count too that have not said who they are."""
    for setting, reason in (
        ("max_sockets", "Too many live viewers, 2 at a time: try again later."),
        (
            "max_sockets_per_address",
            "Too many live viewers of one address, 2 at a time: try again later.",
        ),
    ):
        limited(**{setting: 2})
        async with dialled(server), viewing(server) as fits:
            async with dialled(server) as refused:
                assert await _close(refused) == (1013, reason)
            await fits.send({"type": "ping"})
            await asyncio.wait_for(fits.pongs.get(), PATIENCE)
        await until(lambda: not server.hub.of_addresses.taken)
        async with viewing(server):
            pass


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
async def _unfinished(server: Server) -> AsyncIterator[asyncio.StreamReader]:
    """A request whose body does not come to an end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
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
    for setting in ("max_requests", "max_requests_per_address"):
        limited(**{setting: 2})
        async with _unfinished(server), _unfinished(server):
            await until(lambda: server.state.requests.taken == 2)
            error = _told(await server.post(TYPENAME), 503, "OVERLOADED")
            assert "2 at a time" in error["message"]
            signing_in = await server.http.post(
                "/sign-in", json={"username": "admin", "password": "guess"}
            )
            assert (signing_in.status_code, signing_in.headers["Retry-After"]) == (503, "1")
            # Whoever watches over the server is not turned away.
            assert (await server.http.get("/healthz")).status_code == 200
            assert (await server.http.get("/metrics")).status_code == 200
        await until(lambda: server.state.requests.taken == 0)
        assert (await server.post(TYPENAME)).status_code == 200


async def test_a_body_that_never_ends_gives_its_place_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "BODY_TIMEOUT", 0.2)
    async with _unfinished(server) as reader:
        answer = await asyncio.wait_for(reader.readline(), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 408 ")
        await until(lambda: server.state.requests.taken == 0)


async def test_rates_over_http(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    limited(rate_requests=2, anonymous_rate_requests=3)
    assert (await server.post(TYPENAME, token=admin)).status_code == 200
    # What cannot run counts too: it has to be read all the same.
    assert (await server.post("{", token=admin)).status_code == 200
    error = _told(await server.post(TYPENAME, token=admin), 429, "RATE_LIMITED")
    assert error["message"].startswith("A user has at most 2 requests a minute. Try again in ")
    # Signing in was one of the three; a token that is none counts as nobody's.
    assert (await server.post(TYPENAME)).status_code == 200
    assert (await server.post(TYPENAME, token="no such token")).status_code == 401
    _told(await server.post(TYPENAME, token="no such token"), 429, "RATE_LIMITED")
    _told(await server.post(TYPENAME), 429, "RATE_LIMITED")
    signing_in = await server.http.post("/sign-in", json={"username": "a", "password": "b"})
    assert signing_in.status_code == 429
    assert int(signing_in.headers["Retry-After"]) >= 1


async def test_cost_over_http(server: Server, limited: Any) -> None:
    admin = await server.sign_in()
    ten = "{ machines(first: 10) { edges { node { id } } } }"
    limited(rate_cost=20)
    for _ in range(2):
        response = await server.post(ten, token=admin)
        assert response.json()["extensions"] == {"cost": 10}
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

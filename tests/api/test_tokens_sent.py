"""Each way in which clients send a token is taken, or what was ignored is said."""

from typing import Any

import pytest

from remotegpu_api.live.init_payload import read_init
from remotegpu_api.live.messages import ProtocolViolation
from tests.api.documents import VIEWER
from tests.api.plane import ADMIN, Server
from tests.api.viewer import Viewer, dialled

TOKEN = "rgs_" + "A" * 43
OTHER = "rga_" + "B" * 43


@pytest.mark.parametrize(
    "payload",
    [
        {"token": TOKEN},
        {"authToken": TOKEN},
        {"token": f"Bearer {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Token {TOKEN}"},
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"headers": {"authorization": TOKEN, "x-client": "1"}, "token": None},
        # The same one twice is one.
        {"token": TOKEN, "headers": {"Authorization": f"Bearer {TOKEN}"}},
    ],
)
def test_a_token_is_found_where_clients_put_it(payload: dict[str, Any]) -> None:
    assert read_init(payload, None).token == TOKEN
    assert read_init(payload, TOKEN).token == TOKEN
    with pytest.raises(ProtocolViolation, match="Different tokens") as caught:
        read_init(payload, OTHER)
    assert TOKEN not in caught.value.message


@pytest.mark.parametrize(
    ("payload", "ignored"),
    [
        ({}, []),
        ({"Authorization": "Basic YTpi"}, ["Authorization: expected 'Bearer TOKEN'."]),
        ({"Authorization": "Bearer"}, ["Authorization: expected 'Bearer TOKEN'."]),
        ({"headers": {"x-api-key": TOKEN}}, ["headers.x-api-key"]),
        ({"apiKey": TOKEN, "headers": 5}, ["apiKey", "headers"]),
    ],
)
def test_what_is_not_understood_is_named(payload: dict[str, Any], ignored: list[str]) -> None:
    said = read_init(payload, None)
    assert (said.token, said.ignored) == (None, ignored)
    assert read_init(payload, TOKEN).token == TOKEN


def test_what_is_told_is_bounded() -> None:
    said = read_init({f"{number}" * 500: 1 for number in range(100, 400)}, None)
    assert len(said.ignored) == 10
    assert all(len(name) < 120 for name in said.ignored)


@pytest.mark.parametrize(
    "payload",
    [
        {"token": 5},
        {"authToken": ["x"]},
        {"Authorization": {}},
        {"headers": {"Authorization": 5}},
        {"token": TOKEN, "authToken": OTHER},
        {"token": TOKEN, "Authorization": f"Bearer {OTHER}"},
    ],
)
async def test_what_is_no_token_or_two_closes(server: Server, payload: dict[str, Any]) -> None:
    async with dialled(server) as socket:
        viewer = Viewer(socket)
        await viewer.send({"type": "connection_init", "payload": payload})
        assert (await viewer.closed())[0] == 4400


async def test_over_a_websocket(server: Server) -> None:
    admin = await server.sign_in()
    async with dialled(server) as socket:
        viewer = Viewer(socket)
        await viewer.send(
            {"type": "connection_init", "payload": {"headers": {"authorization": admin}}}
        )
        operation = await viewer.subscribe(VIEWER)
        assert (await operation.data())["viewer"]["user"]["username"] == ADMIN
        assert viewer.acknowledgement == {"type": "connection_ack"}
        await viewer.stop()
    async with dialled(server, headers={"Authorization": "Basic YTpi"}) as socket:
        viewer = Viewer(socket)
        await viewer.send({"type": "connection_init", "payload": {"apiKey": admin}})
        operation = await viewer.subscribe("{ __typename }")
        await operation.data()
        assert viewer.acknowledgement == {
            "type": "connection_ack",
            "payload": {
                "ignored": ["apiKey", "The header Authorization: expected 'Bearer TOKEN'."]
            },
        }
        await viewer.stop()


async def test_over_http(server: Server) -> None:
    admin = await server.sign_in()
    for value in (f"Bearer {admin}", f"BEARER  {admin}", admin, f"Token {admin}"):
        body = (await server.post(VIEWER, headers={"Authorization": value})).json()
        assert body["data"]["viewer"]["user"]["username"] == ADMIN, value
    for value in ("Basic YTpi", "Bearer", "secret-of-another-kind", "Token x"):
        response = await server.post(VIEWER, headers={"Authorization": value})
        body = response.json()
        assert body["data"]["viewer"] is None
        assert body["extensions"]["ignored"] == [
            "The header Authorization: expected 'Bearer TOKEN'."
        ]
    # Also where nothing ran, as with introspection, which takes a sign-in.
    refused = await server.post(
        "{ __schema { queryType { name } } }", headers={"Authorization": "x"}
    )
    assert "Bearer TOKEN" in refused.json()["extensions"]["ignored"][0]
    both = [("Authorization", f"Bearer {admin}"), ("Authorization", f"Bearer {OTHER}")]
    assert (await server.http.get("/metrics", headers=both)).status_code == 200
    twice = await server.http.post("/graphql", json={"query": VIEWER}, headers=both)
    assert twice.status_code == 401
    assert "differ" in twice.json()["errors"][0]["message"]

"""The reference clients of both protocols, npm's graphql-http and graphql-ws, at the real server."""

import json
from typing import Any

import pytest

from remotegpu_api.live import socket as live_socket
from tests.api.documents import LIVE
from tests.api.host import enrolled, sampling
from tests.api.plane import Server
from tests.core.patience import until
from tests.services.node import install, run_node

# One test process installs, and the others need not wait for it.
pytestmark = pytest.mark.xdist_group("npm")


@pytest.fixture(scope="module", autouse=True)
def npm_packages() -> None:
    install()


async def test_graphql_http_finds_nothing_wrong(server: Server) -> None:
    admin = await server.sign_in()
    audits = json.loads(await run_node("audit.mjs", f"{server.url}/graphql", admin))
    assert len(audits) > 50
    assert [audit for audit in audits if audit["status"] != "ok"] == []


async def test_graphql_ws_is_served(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for a client that does say who it is, on a machine that is busy.
    monkeypatch.setattr(live_socket, "INIT_TIMEOUT", 2.0)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    asked = {
        "url": f"{server.websocket_url}/graphql",
        "token": admin,
        "live": LIVE,
        "machineId": host.id,
    }
    async with host.connected() as link, sampling(link):
        told = json.loads(await run_node("viewer.mjs", json.dumps(asked)))
    _check_operations(told["operations"], host.id)
    _check_pings(told["pings"])
    assert len(told["closings"]) == 7
    for name, closed in told["closings"].items():
        assert closed["code"] == closed["expected"], (name, closed)
        assert closed["reason"], name
    assert told["refused"] == {"code": 4403, "reason": "Forbidden"}
    await until(lambda: not server.hub.sockets and not server.hub.groups)


def _check_operations(told: dict[str, Any], machine_id: str) -> None:
    (viewer,) = told["query"]
    assert viewer["data"] == {"viewer": {"user": {"username": "admin"}}}
    assert (len(told["metrics"]), len(told["again"])) == (3, 2)
    for event in told["metrics"] + told["again"]:
        assert event["data"]["machineMetrics"]["machineId"] == machine_id
    assert told["changes"][0]["data"]["machineChanged"]["kind"] == "READY"
    (error,) = told["failed"]
    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"


def _check_pings(heard: list[dict[str, Any]]) -> None:
    assert [said["ping"] for said in heard if "ping" in said] == [False] * 3
    assert [said["pong"] for said in heard if "pong" in said] == [True] * 3

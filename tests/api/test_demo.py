"""`remotegpu demo`: the whole system, its agents included, from one command."""

import asyncio
import json
import os
import re
import signal
import time
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from rich.console import Console
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from remotegpu_api import demo
from remotegpu_core.services import freeze
from tests.api.documents import MACHINES, SIGN_IN
from tests.api.program import Running, call, call_here, started
from tests.services.ports import LOOPBACK, unused_port

PASSWORD = "demo-Passw0rd-1"


async def _ask(
    port: int,
    query: str,
    variables: dict[str, Any],
    token: str | None = None,
    name: str | None = None,
) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body: dict[str, Any] = {"query": query, "variables": variables}
    if name is not None:
        body["operationName"] = name
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        response = await http.post(f"http://{LOOPBACK}:{port}/graphql", json=body, headers=headers)
    answer = response.json()
    assert "errors" not in answer, answer
    return answer["data"]


async def _sign_in(port: int, password: str) -> str | None:
    answer = await _ask(port, SIGN_IN, {"username": "admin", "password": password})
    token: str | None = answer["signIn"]["token"]
    return token


async def _live(demo: Running, port: int, token: str, machines: int) -> dict[str, Any]:
    """The machines by name, once all are connected and have a sample."""
    deadline = time.monotonic() + 60
    while True:
        answer = await _ask(port, MACHINES, {}, token, "Machines")
        nodes = {edge["node"]["name"]: edge["node"] for edge in answer["machines"]["edges"]}
        if len(nodes) == machines and all(
            node["presence"] == "ONLINE" and node["latestMetrics"] and node["specs"]
            for node in nodes.values()
        ):
            return nodes
        assert time.monotonic() < deadline, (nodes, demo.output, demo.log)
        await asyncio.sleep(0.2)


async def _follow_what_is_printed(demo: Running, port: int, token: str) -> None:
    """The subscription that it prints works as it stands, for all machines in it."""
    printed = re.search(r"^subscription \{.*?^\}", demo.output, re.MULTILINE | re.DOTALL)
    assert printed is not None, demo.output
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": printed.group()}}
    seen: set[str] = set()
    async with connect(
        f"ws://{LOOPBACK}:{port}/graphql",
        subprotocols=[Subprotocol("graphql-transport-ws")],
        additional_headers={"Authorization": f"Bearer {token}"},
        proxy=None,
    ) as viewer:
        await viewer.send('{"type": "connection_init"}')
        assert json.loads(await viewer.recv())["type"] == "connection_ack"
        await viewer.send(json.dumps(subscribe))
        async with asyncio.timeout(30):
            while len(seen) < 2:
                event = json.loads(await viewer.recv())
                assert event["type"] == "next", event
                seen.add(event["payload"]["data"]["machineMetrics"]["machineId"])
    assert all(machine in printed.group() for machine in seen)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _environment(data: Path, port: int, **more: str) -> dict[str, str]:
    return {"HOSTS": "2", "PORT": str(port), "DATA": str(data), **more}


async def _second_demos_are_refused(tmp_path: Path, data: Path, port: int) -> None:
    taken = await call("demo", environment=_environment(tmp_path / "other", port))
    assert f"Port {port}" in taken.one_line
    assert "PORT=" in taken.one_line
    used = await call("demo", environment=_environment(data, unused_port()))
    assert "DATA=" in used.one_line


# One test for the whole story: each start costs seconds of two cores.
@pytest.mark.timeout(240)
async def test_a_stranger_has_a_fleet_and_keeps_it(tmp_path: Path) -> None:
    data, port = tmp_path / "data", unused_port()
    environment = _environment(data, port, ADMIN_PASSWORD=PASSWORD)
    async with started("demo", environment=environment) as demo:
        await demo.says("3 agents are running")
        assert f"http://127.0.0.1:{port}/graphql" in demo.output
        assert PASSWORD not in demo.output
        token = await _sign_in(port, PASSWORD)
        assert token is not None
        nodes = await _live(demo, port, token, 3)
        await demo.says("Ctrl-C ends it.")
        await _follow_what_is_printed(demo, port, token)
        simulated = [nodes["sim-01"], nodes["sim-02"]]
        for node in simulated:
            assert len(node["gpus"]) == 8
            assert len(node["latestMetrics"]["gpus"]) == 8
            assert node["latestMetrics"]["gpus"][0]["utilization"] is not None
        (real,) = (node for name, node in nodes.items() if not name.startswith("sim-"))
        assert real["specs"]["cpuCount"] == os.cpu_count()
        assert real["latestMetrics"]["host"]["memoryTotal"] > 0
        identities = {name: node["id"] for name, node in nodes.items()}
        await _second_demos_are_refused(tmp_path, data, port)
        family = _family(demo.process.pid)
        assert len(family) >= 4
        # As Ctrl-C at a terminal.
        assert await demo.end(signal.SIGINT) < 5
        assert demo.process.returncode == 0
        assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in demo.log + demo.output

    # Another port, the same data: the same machines under the same keys, and another password.
    other = unused_port()
    environment = _environment(data, other, ADMIN_PASSWORD="another-Passw0rd-2")
    async with started("demo", environment=environment) as demo:
        await demo.says("3 agents are running")
        assert await _sign_in(other, PASSWORD) is None
        token = await _sign_in(other, "another-Passw0rd-2")
        assert token is not None
        nodes = await _live(demo, other, token, 3)
        assert {name: node["id"] for name, node in nodes.items()} == identities
        assert await demo.end(signal.SIGTERM) < 5

    # Without a password the last one holds; nobody is enrolled again.
    async with started("demo", environment=_environment(data, other)) as demo:
        await demo.says("3 agents are running")
        token = await _sign_in(other, "another-Passw0rd-2")
        assert token is not None
        nodes = await _live(demo, other, token, 3)
        assert {name: node["id"] for name, node in nodes.items()} == identities
        redeemed = await _ask(
            other,
            '{ auditEvents(filter: {action: "redeemEnrollment"}) { totalCount } }',
            {},
            token,
        )
        # Three hosts at the first start, and three that moved to another port at the second.
        assert redeemed["auditEvents"]["totalCount"] == 6
        agents = _family(demo.process.pid)[1:]
        # However it ends: no agent outlives it.
        demo.process.kill()
        await demo.process.wait()
        deadline = time.monotonic() + 10
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in agents):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


def test_what_cannot_be_gets_one_line(tmp_path: Path) -> None:
    nowhere = call_here("demo", environment=_environment(Path("/proc/nowhere"), unused_port()))
    assert "/proc/nowhere" in nowhere.one_line
    assert "DATA=" in nowhere.one_line
    weak = call_here(
        "demo", environment=_environment(tmp_path, unused_port(), ADMIN_PASSWORD="short")
    )
    assert "password" in weak.one_line


async def test_it_may_be_ended_before_it_has_begun(tmp_path: Path) -> None:
    async with started("demo", environment=_environment(tmp_path / "data", unused_port())) as demo:
        await demo.says("RemoteGPU runs at")
        family = _family(demo.process.pid)
        assert await demo.end(signal.SIGINT) < 5
        assert demo.process.returncode == 0
        assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in demo.log + demo.output


@pytest.mark.usefixtures("server")
async def test_it_takes_the_clock_for_right_after_a_long_stop() -> None:
    said = StringIO()
    console = Console(file=said, width=200)
    await demo.confirm_clock(console)
    assert said.getvalue() == ""
    doubt = await freeze.begin_for_clock("It was stopped for a day.")
    await demo.confirm_clock(console)
    assert "goes on" in said.getvalue()
    assert not await freeze.is_clock_doubted()
    # That is what `ClockWatch` takes for an administrator's confirmation.
    assert not await freeze.prolong(doubt)

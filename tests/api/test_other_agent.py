"""An agent that was written from docs/protocol.md in another language, through its whole life."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from remotegpu_core.models import Machine
from remotegpu_core.states import Lifecycle
from remotegpu_protocol import server_link
from tests.api.documents import ENROLL, LIVE, contract, only
from tests.api.plane import Backend, Server, serving
from tests.api.viewer import Operation, viewing
from tests.core.patience import PATIENCE
from tests.services.node import CLIENTS, install
from tests.services.programs import find_program

pytestmark = pytest.mark.xdist_group("npm")

ALLOCATION = contract("07-allocate")
MACHINES = "query($text: String) { machines(filter: {text: $text}) { edges { node { id availability } } } }"
STATE = "query($id: ID!) { allocation(id: $id) { state cleaningReceipt { verified } } }"
ACCEPT = "mutation($id: ID!) { acceptHost(input: {machineId: $id}) { userErrors { message } } }"
RETIRE = "mutation($id: ID!) { retireMachine(input: {machineId: $id}) { userErrors { message } } }"
#: Close code and error code of each ending. 1011 would take a fault of ours.
ENDS = {
    "enrolled": (1000, None),
    "superseded": (4409, "SUPERSEDED"),
    "accepted": (4410, "HOST_ACCEPTED"),
    "tooLarge": (1009, None),
    "badMessage": (4400, "INVALID_MESSAGE"),
    "early": (4400, "UNEXPECTED_MESSAGE"),
    "silent": (4408, None),
    "version": (4406, "VERSION_MISMATCH"),
    "subprotocol": (4406, "VERSION_MISMATCH"),
    "stranger": (4401, "AUTHENTICATION_FAILED"),
    "replaced": (4403, "REVOKED"),
    "revoked": (4403, "REVOKED"),
    "retired": (4403, "REVOKED"),
    "overloaded": (4429, "OVERLOADED"),
    "stopped": (1001, None),
}


@pytest.fixture(scope="module", autouse=True)
def npm_packages() -> None:
    install()


class Operator:
    """Does what the agent's script needs somebody to do."""

    def __init__(
        self,
        server: Server,
        admin: str,
        stack: contextlib.AsyncExitStack,
        settings: pytest.MonkeyPatch,
    ) -> None:
        self._server, self._admin, self._stack, self._settings = server, admin, stack, settings
        self._metrics: Operation | None = None
        self._allocation = ""

    async def _ask(self, document: str, **variables: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._server.ask(document, variables, token=self._admin)
        return answer

    async def _machine(self, name: str) -> str:
        found = await self._ask(MACHINES, text=name)
        machine_id: str = found["machines"]["edges"][0]["node"]["id"]
        return machine_id

    async def token(self, name: str, machine: str | None) -> Any:
        given = (
            {"machineName": name} if machine is None else {"machineId": await self._machine(name)}
        )
        made = (await self._ask(ENROLL, input=given))["createEnrollment"]
        assert made["userErrors"] == []
        return {"token": made["token"]}

    async def watch(self, name: str) -> None:
        viewer = await self._stack.enter_async_context(viewing(self._server, self._admin))
        ids = {"machineIds": [await self._machine(name)], "intervalSeconds": 0.5}
        self._metrics = await viewer.subscribe(LIVE, ids, operation="MachineMetrics")

    async def seen(self, name: str) -> None:
        assert self._metrics is not None
        event = (await self._metrics.data())["machineMetrics"]
        assert [gpu["utilization"] for gpu in event["gpus"]] == [50.5, 50.5]

    async def allocate(self, name: str) -> None:
        given = {"machineId": await self._machine(name), "endsAt": _in_hours(1)}
        made = (await self._ask(only(ALLOCATION, "Allocate"), input=given))["allocate"]
        assert made["userErrors"] == [], made
        self._allocation = made["allocation"]["id"]

    async def extend(self) -> None:
        await self._until("ACTIVE")
        document = only(ALLOCATION, "ExtendAllocation")
        assert (await self._ask(document, id=self._allocation, endsAt=_in_hours(2)))[
            "extendAllocation"
        ]["userErrors"] == []

    async def release(self) -> None:
        await self._ask(only(ALLOCATION, "ReleaseAllocation"), id=self._allocation, key="once")

    async def released(self) -> Any:
        return await self._until("RELEASED")

    async def accept(self, name: str) -> None:
        assert (await Machine.get(name=name)).lifecycle is Lifecycle.QUARANTINED
        await self._ask(ACCEPT, id=await self._machine(name))

    async def retire(self, name: str) -> None:
        await self._ask(RETIRE, id=await self._machine(name))

    async def full(self) -> None:
        plane = self._server.plane
        self._settings.setattr(
            plane, "settings", plane.settings.model_copy(update={"max_agents": 1})
        )

    async def _until(self, state: str) -> Any:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = (await self._ask(STATE, id=self._allocation))["allocation"]
                if found["state"] == state:
                    return found
                await asyncio.sleep(0.05)


def _in_hours(hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


async def test_from_its_token_to_every_ending(
    embedded: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_link, "HELLO_TIMEOUT", 2.0)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(embedded, tmp_path / "state"))
        operator = Operator(server, await server.sign_in(), stack, monkeypatch)
        where = {"url": server.websocket_url, "origin": server.origin}
        agent = await asyncio.create_subprocess_exec(
            find_program("node", "nodejs", package="nodejs"),
            *("agent.mjs", json.dumps(where)),
            cwd=CLIENTS,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            told = await _serve(agent, operator, stack)
        finally:
            if agent.returncode is None:
                agent.kill()
            await agent.wait()
    assert {name: (end["code"], end["error"]) for name, end in told["ends"].items()} == ENDS
    for name, end in told["ends"].items():
        assert end["reason"] or name == "enrolled", name
        if end["text"] is not None and name != "badMessage":
            assert end["text"].startswith(end["reason"].removesuffix("…")), name
    assert told["rate"]["lease"] > 0
    assert told["refused"] == [["INVALID_VALUE", False]] * 2
    assert told["started"] == ["GPU-js-0", "GPU-js-1"]
    assert told["released"] == {"state": "RELEASED", "cleaningReceipt": {"verified": True}}


async def _serve(
    agent: asyncio.subprocess.Process, operator: Operator, stack: contextlib.AsyncExitStack
) -> dict[str, Any]:
    assert agent.stdin is not None
    assert agent.stdout is not None
    async for line in agent.stdout:
        said = json.loads(line)
        if "told" in said:
            told: dict[str, Any] = said["told"]
            return told
        what = said.pop("ask")
        answer = await (stack.aclose() if what == "stop" else getattr(operator, what)(**said))
        agent.stdin.write(f"{json.dumps(answer)}\n".encode())
    raise AssertionError("the agent ended before it had told everything")

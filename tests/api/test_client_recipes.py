"""The recipes of docs/clients.md, run with the clients that they are for."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from remotegpu_core.models import MachineLabel
from tests.api.plane import Json, Server
from tests.api.recipes import asked_of, lay_out, recipes
from tests.services.node import install, run_node

pytestmark = pytest.mark.xdist_group("npm")


@pytest.fixture(scope="module", autouse=True)
def npm_packages() -> None:
    install()


async def _run(server: Server, folder: Path, script: str) -> Json:
    async with asked_of(server, lay_out(folder)) as asked:
        told: dict[str, Any] = json.loads(await run_node(script, json.dumps(asked)))
    assert "error" not in told, told
    return told


def test_every_block_has_a_test() -> None:
    assert set(recipes()) == {
        *("graphql-ws.mjs", "apollo.mjs", "urql.mjs"),
        # In test_client_generators.
        *("relay.mjs", "relay.config.json", "gql_client.py", "pyproject.toml", "ariadne_client.py"),
    }


async def test_graphql_ws_resumes(server: Server, tmp_path: Path) -> None:
    async def too_slow() -> None:
        while True:
            if await MachineLabel.filter(value="slow").exists():
                break
            await asyncio.sleep(0.05)
        for socket in tuple(server.hub.sockets):
            socket.close_soon(4429, "Too slow: read faster or ask for less.")

    closing = asyncio.create_task(too_slow())
    told = await _run(server, tmp_path, "resume.mjs")
    await closing
    # One READY: nothing was begun anew, and no change is missing.
    kinds = [kind for kind in told["heard"] if kind != 4429]
    assert kinds == ["READY"] + ["CONFIGURATION_CHANGED"] * (len(kinds) - 1)
    assert 4429 in told["heard"]
    assert told["connections"] == 3


@pytest.mark.parametrize("script", ["apollo.mjs", "apollo-3.mjs"])
async def test_apollo_names_documents_and_joins_live_samples(
    server: Server, tmp_path: Path, script: str
) -> None:
    told = await _run(server, tmp_path, script)
    unknown, added, known = told["requests"]
    assert told["asked"] == 3
    assert all(request["named"] for request in told["requests"])
    assert (unknown["method"], unknown["whole"]) == ("GET", False)
    assert (added["whole"], added["status"]) == (True, 200)
    assert (known["method"], known["whole"], known["status"]) == ("GET", False, 200)


async def test_urql_asks_by_get_and_joins_live_samples(server: Server, tmp_path: Path) -> None:
    told = await _run(server, tmp_path, "urql.mjs")
    (request,) = told["requests"]
    assert (request["method"], request["status"]) == ("GET", 200)

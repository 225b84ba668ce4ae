"""The recipes of docs/clients.md for clients whose programs are made from the schema, and for gql."""

import json
import shutil
from pathlib import Path

import pytest

from tests.api.plane import Server
from tests.api.recipes import asked_of, lay_out
from tests.services import node, python_packages
from tests.services.node import CLIENTS, run_node

pytestmark = pytest.mark.soak

SCHEMA = Path(__file__).parents[2] / "graphql" / "schema.graphql"

RELAY = """import { graphql } from 'relay-runtime';
graphql`query queriesLatestQuery($id: ID!) { machine(id: $id) {
  id latestMetrics { machine { id } sampledAt gpus { uuid utilization } }
} }`;
graphql`subscription queriesLiveSubscription($ids: [ID!]!) { machineMetrics(machineIds: $ids) {
  machine { id } sampledAt gpus { uuid utilization }
} }`;
"""

GQL = """import asyncio, json, sys
from gql_client import live, machines
asked = json.loads(sys.argv[1])
known = [machines(asked["url"], asked["token"], method) for method in ("POST", "GET")]

async def first():
    async for sample in live(asked["url"], asked["token"], [asked["machineId"]]):
        return sample

print(json.dumps({"machines": known, "sample": asyncio.run(first())}))
"""

QUERIES = """query Machines { machines(first: 10) { edges { node { id name createdAt
  gpus { memoryTotal } } } } }
subscription Live($ids: [ID!]!) { machineMetrics(machineIds: $ids) { sampledAt machineId } }
"""

ARIADNE = """import asyncio, json, sys
from ariadne_client import client
asked = json.loads(sys.argv[1])

async def run():
    made = client(asked["url"], asked["token"])
    (edge,) = (await made.machines()).machines.edges
    async for sample in made.live([asked["machineId"]]):
        return edge.node.created_at.isoformat(), edge.node.name, sample.machine_metrics.machine_id

print(json.dumps(asyncio.run(run())))
"""


async def test_relay(server: Server, tmp_path: Path) -> None:
    packages = CLIENTS / "relay"
    node.install(packages)
    lay_out(tmp_path, packages=packages)
    shutil.copy(SCHEMA, tmp_path / "schema.graphql")
    source = tmp_path / "src"
    source.mkdir()
    (source / "queries.js").write_text(RELAY)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    compiler = packages / "node_modules" / "relay-compiler" / "cli.js"
    await run_node(str(compiler), "relay.config.json", folder=tmp_path, may_warn=True)
    async with asked_of(server, tmp_path) as asked:
        told = json.loads(await run_node("relay.mjs", json.dumps(asked), folder=packages))
    assert told["first"]


async def test_gql(server: Server, tmp_path: Path) -> None:
    packages = python_packages.install("gql")
    lay_out(tmp_path)
    async with asked_of(server, tmp_path) as asked:
        told = json.loads(
            await python_packages.run_python(packages, tmp_path, "-c", GQL, json.dumps(asked))
        )
    assert [[machine["id"] for machine in known] for known in told["machines"]] == [
        [asked["machineId"]]
    ] * 2
    assert told["sample"]["machineId"] == asked["machineId"]


async def test_ariadne_codegen(server: Server, tmp_path: Path) -> None:
    packages = python_packages.install("ariadne")
    lay_out(tmp_path)
    shutil.copy(SCHEMA, tmp_path / "schema.graphql")
    (tmp_path / "queries.graphql").write_text(QUERIES)
    await python_packages.run_python(packages, tmp_path, "-m", "ariadne_codegen")
    async with asked_of(server, tmp_path) as asked:
        made = await python_packages.run_python(
            packages, tmp_path, "-c", ARIADNE, json.dumps(asked)
        )
    created, name, machine_id = json.loads(made)
    assert created.endswith("+00:00")
    assert (name, machine_id) == ("gpu-01", asked["machineId"])

"""The consumers' document on datasets, over HTTP: a running server, a real agent that only pretends
to be a host, and a bucket."""

from pathlib import Path
from typing import Any

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_graphql.scalars import format_time
from tests.api.agent import SimulatedAgent
from tests.api.documents import ENROLL, MACHINES, contract
from tests.api.plane import Server
from tests.core.patience import eventually
from tests.core.people import HOUR
from tests.services.s3 import S3Server

ALLOCATE, OPERATIONS = contract("07-allocate"), contract("08-operations")
DATASETS = contract("12-datasets")

pytestmark = pytest.mark.timeout(300)


class Client:
    """Somebody who is signed in."""

    def __init__(self, server: Server, token: str) -> None:
        self._server = server
        self._token = token

    async def ask(self, source: str, operation: str | None = None, **variables: Any) -> Any:
        data = await self._server.ask(source, variables, token=self._token, operation=operation)
        (payload,) = data.values()
        assert not (payload or {}).get("userErrors"), payload
        return payload

    async def change(self, name: str, shown: str, /, **given: Any) -> Any:
        source = (
            f"mutation M($input: {name[0].upper()}{name[1:]}Input!) {{ {name}(input: $input) "
            f"{{ {shown} userErrors {{ code message }} }} }}"
        )
        return await self.ask(source, input=given)

    async def done(self, operation: dict[str, Any]) -> None:
        """Its host has done it."""

        async def over() -> bool:
            found = await self.ask(OPERATIONS, "Operation", id=operation["id"])
            assert found["state"] not in {"FAILED", "CANCELLED", "INDETERMINATE"}, found
            return bool(found["state"] == "SUCCEEDED")

        await eventually(over, patience=60)


async def test_datasets_on_a_host(server: Server, tmp_path: Path, s3_server: S3Server) -> None:
    admin = await server.sign_in()
    root = Client(server, admin)
    user_id, token = await server.make_user(admin, "ada")
    ada = Client(server, token)
    enrolment = await root.ask(ENROLL, input={"machineName": "gpu-01"})
    agent = SimulatedAgent(server.origin, tmp_path / "agent")
    await agent.enroll(enrolment["token"])
    await agent.start()
    try:
        await _live(server, root, ada, user_id, s3_server)
    finally:
        await agent.kill()


async def _live(
    server: Server, root: Client, ada: Client, user_id: str, s3_server: S3Server
) -> None:
    machine = ""

    async def is_there() -> bool:
        nonlocal machine
        found = await root.ask(MACHINES, "Machines")
        for edge in found["edges"]:
            if edge["node"]["gpus"]:
                machine = edge["node"]["id"]
        return bool(machine)

    await eventually(is_there, patience=60)
    await root.change("grantMachine", "machine { id }", machineId=machine, userId=user_id)
    lab = (await root.change("createWorkspace", "workspace { id }", name="lab"))["workspace"]["id"]
    member = {"workspaceId": lab, "userId": user_id}
    await root.change("setWorkspaceMember", "workspace { id }", role="MEMBER", **member)

    bucket = f"over-http-{server.port}"
    s3_server.fill(bucket, {"imagenet/a": b"x" * 1000, "imagenet/b": b"x" * 24})
    registered = await root.ask(
        DATASETS,
        "RegisterDataset",
        input={
            "name": "imagenet",
            "source": {
                "kind": "S3",
                "location": f"s3://{bucket}/imagenet",
                "endpoint": s3_server.endpoint,
            },
            "visibility": "WORKSPACE",
            "workspaceId": lab,
        },
    )
    assert registered["dataset"]["size"] == 1024

    allocated = await ada.ask(
        ALLOCATE,
        "Allocate",
        input={"machineId": machine, "endsAt": format_time(now_ms() + HOUR)},
    )
    allocation = allocated["allocation"]["id"]
    await ada.done(allocated["operation"])

    async def states() -> list[str]:
        source = "query Q($id: ID!) { allocation(id: $id) { mounts { state } } }"
        shown = await ada.ask(source, id=allocation)
        return [mount["state"] for mount in shown["mounts"]]

    async def mount(path: str, key: str) -> dict[str, Any]:
        made: dict[str, Any] = await ada.ask(
            DATASETS,
            "MountDataset",
            input={
                "datasetId": registered["dataset"]["id"],
                "allocationId": allocation,
                "path": path,
                "readOnly": True,
                "idempotencyKey": key,
            },
        )
        assert made["mount"]["machine"] == {"id": machine}
        await ada.done(made["operation"])
        return made

    made = await mount("/data/imagenet", "key-1")
    assert await states() == ["MOUNTED"]
    assert (await mount("/data/imagenet", "key-1"))["mount"]["state"] == "MOUNTED"
    unmounted = await ada.ask(
        DATASETS, "UnmountDataset", input={"id": made["mount"]["id"], "idempotencyKey": "key-2"}
    )
    await ada.done(unmounted["operation"])
    assert await states() == ["UNMOUNTED"]

    # She leaves the workspace that shared it: seconds later it is gone, and nobody asked for that.
    await mount("/data/again", "key-3")
    await root.change("removeWorkspaceMember", "workspace { id }", **member)

    async def gone() -> bool:
        return await states() == ["UNMOUNTED", "UNMOUNTED"]

    await eventually(gone, patience=60)
    await root.change(
        "grantDataset",
        "dataset { id }",
        datasetId=registered["dataset"]["id"],
        userId=user_id,
        access="READ",
    )
    await mount("/data/granted", "key-4")
    # With the allocation everything goes, and the receipt says so.
    released = await ada.ask(ALLOCATE, "ReleaseAllocation", id=allocation, key="key-5")
    await ada.done(released["operation"])
    assert await states() == ["UNMOUNTED"] * 3
    receipt = await ada.ask(OPERATIONS, "CleaningReceipt", allocationId=allocation)
    surfaces = [item["surface"] for item in receipt["cleaningReceipt"]["items"]]
    assert "data sets" in surfaces
    removed = await root.change("removeDataset", "removedId", id=registered["dataset"]["id"])
    assert removed["removedId"] == registered["dataset"]["id"]

"""Data sets from the graph to a user's shell: the consumers' documents, a real host and a real S3."""

import uuid
from pathlib import Path
from typing import Any, Final

import pytest

from tests.agent.datasets.service import SECRET, running_service
from tests.api.documents import contract
from tests.api.lifecycle.host import POLICY
from tests.api.lifecycle.people import Person, user_of
from tests.api.lifecycle.test_two_users import check_receipt
from tests.api.lifecycle.world import World, world_of
from tests.api.plane import Backend, Json, serving

pytestmark = [pytest.mark.timeout(240)]

_DATASETS: Final = contract("12-datasets")
_MOUNTING: Final = POLICY.replace(
    '"account.keys"', '"account.keys", "dataset.mount", "dataset.unmount"'
)
_KEYS: Final = f"""
[[buckets]]
bucket = "models"
access_key = "KEY"
secret_key = "{SECRET}"
endpoint = "%s"
"""


async def register(admin: Person, name: str, **source: Any) -> str:
    """A data set that everybody may read, by its id."""
    wanted = {"name": name, "visibility": "PUBLIC", "source": source}
    data = await admin.server.ask(
        _DATASETS, {"input": wanted}, token=admin.token, operation="RegisterDataset"
    )
    payload = data["registerDataset"]
    assert payload["userErrors"] == [], payload
    dataset_id: str = payload["dataset"]["id"]
    return dataset_id


async def mount(person: Person, allocation: str, dataset: str, path: str) -> Json:
    wanted = {
        "datasetId": dataset,
        "allocationId": allocation,
        "path": path,
        "readOnly": True,
        "idempotencyKey": uuid.uuid4().hex,
    }
    data = await person.server.ask(
        _DATASETS, {"input": wanted}, token=person.token, operation="MountDataset"
    )
    payload: Json = data["mountDataset"]
    return payload


async def mounted(person: Person, allocation: str, dataset: str, path: str) -> str:
    """The mount's id, when the host has it."""
    payload = await mount(person, allocation, dataset, path)
    assert payload["userErrors"] == [], payload
    operation = await person.ended(payload["operation"]["id"])
    assert operation["state"] == "SUCCEEDED", operation
    mount_id: str = payload["mount"]["id"]
    return mount_id


async def unmounted(person: Person, mount_id: str) -> None:
    wanted = {"id": mount_id, "idempotencyKey": uuid.uuid4().hex}
    data = await person.server.ask(
        _DATASETS, {"input": wanted}, token=person.token, operation="UnmountDataset"
    )
    payload = data["unmountDataset"]
    assert payload["userErrors"] == [], payload
    operation = await person.ended(payload["operation"]["id"])
    assert operation["state"] == "SUCCEEDED", operation


async def prepared(world: World, endpoint: str) -> None:
    await world.host.allow(f'{_MOUNTING}mount_roots = ["/srv/sets"]\n')
    await world.host.shell("mkdir -p /srv/sets/imagenet; echo canary > /srv/sets/imagenet/canary")
    keys = world.host.path("/etc/remotegpu/s3.toml")
    keys.write_text(_KEYS % endpoint)
    keys.chmod(0o600)


async def test_from_the_graph_to_a_shell(scaled_out: Backend, tmp_path: Path) -> None:
    async with (
        serving(scaled_out, tmp_path / "data") as server,
        world_of(server, tmp_path) as world,
    ):
        ada, bob = await user_of(world.admin, "ada"), await user_of(world.admin, "bob")
        keys = {person.name: world.keys(person.name) for person in (ada, bob)}
        for person in (ada, bob):
            await person.add_key("laptop", await keys[person.name].make("first"))
        with running_service() as endpoint:
            await prepared(world, endpoint)
            await world.host.agent()
            await world.ready()
            allocation, tenant = await world.give(ada, keys["ada"])
            await ada.reached(allocation, "ACTIVE")
            here = {"kind": "DIRECTORY", "machineId": world.machine_id}
            imagenet = await register(
                world.admin, "imagenet", location="/srv/sets/imagenet", **here
            )
            models = await register(
                world.admin, "models", kind="S3", location="s3://models/imagenet", endpoint=endpoint
            )
            path = "/mnt/lab/imagenet"
            first = await mounted(ada, allocation, imagenet, path)
            assert await tenant.does("first", f"cat {path}/canary") == "canary\n"
            await unmounted(ada, first)
            assert await tenant.does("first", f"test -e {path} || echo gone") == "gone\n"

            await mounted(ada, allocation, imagenet, path)
            await mounted(ada, allocation, models, "/mnt/lab/models")
            seen = await tenant.does("first", f"cat {path}/canary /mnt/lab/models/a/one")
            assert seen == "canary\ncanary"
            denied = await tenant.does("first", f"touch {path}/new 2>&1 || true")
            assert "Read-only file system" in denied

            # What cannot be is told by whoever knows it, and leaves the rest as it is.
            away = await register(world.admin, "away", location="/srv/sets/away", **here)
            secret = await register(world.admin, "secret", location="/etc/ssh", **here)
            mounts = await world.host.root("cat", "/proc/self/mountinfo")
            for dataset in (away, secret):
                payload = await mount(ada, allocation, dataset, "/mnt/lab/no")
                operation = await ada.ended(payload["operation"]["id"])
                assert operation["state"] == "FAILED", operation
            for wrong in ("/etc/cron.d", "/mnt/../etc", f"{path}/below"):
                payload = await mount(ada, allocation, models, wrong)
                assert [error["field"] for error in payload["userErrors"]] == [["path"]], payload
            stranger = await mount(bob, allocation, imagenet, "/mnt/lab/bobs")
            assert [error["code"] for error in stranger["userErrors"]] == ["NOT_FOUND"]
            assert await world.host.root("cat", "/proc/self/mountinfo") == mounts

            await ada.ended(await ada.release(allocation))
            check_receipt(
                await ada.reached(allocation, "RELEASED"),
                {"sign-in", "SSH keys", "data sets", "home directory", "account"},
            )
            left = await world.host.shell(
                "grep /run/remotegpu /proc/self/mountinfo || find /mnt -mindepth 1; pgrep -a s3fs || true"
            )
            assert left == ""
            assert await world.host.root("cat", "/srv/sets/imagenet/canary") == "canary\n"
            # The next one has nothing of it, and may have it as well.
            allocation, tenant = await world.give(bob, keys["bob"])
            await bob.reached(allocation, "ACTIVE")
            assert await tenant.does("first", "ls -A /mnt /run/remotegpu/mounts") == (
                "/mnt:\n\n/run/remotegpu/mounts:\n"
            )
            await mounted(bob, allocation, imagenet, path)
            assert await tenant.does("first", f"cat {path}/canary") == "canary\n"
            await bob.ended(await bob.release(allocation))
            assert (await bob.reached(allocation, "RELEASED"))["cleaningReceipt"]["verified"]

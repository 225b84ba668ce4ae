"""A host that boots, a client that dies, a source that comes back: mounts are there again."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.datasets.clients import clients_of
from remotegpu_agent.datasets.keeper import DatasetKeeper
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.reclaim.records import ReclaimStore
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_agent.state_directory import StateDirectory
from tests.agent.datasets.host import (
    ADA,
    ALLOWED,
    BOB,
    Host,
    allocation_of,
    allow,
    as_user,
    dataset,
    traces,
)
from tests.agent.datasets.service import running_service, write_keys
from tests.agent.reclaim.isolation import require_isolation
from tests.agent.reclaim.tenant import tool

pytestmark = pytest.mark.isolated


def boot() -> None:
    """All that a boot takes away."""
    require_isolation()
    for place in (ROOT / ADA / "m1", ROOT / ADA / "m2", ROOT / BOB / "m3"):
        if place.is_mount():
            tool("umount", str(place))
        for pid in clients_of("s3fs", place):
            tool("kill", "-KILL", str(pid))
    # The kernel takes a moment to let go of them.
    while clients_of("s3fs", ROOT / ADA / "m2"):
        time.sleep(0.02)
    shutil.rmtree("/run/remotegpu")


def test_mounted_again(directory: StateDirectory, capfd: pytest.CaptureFixture[str]) -> None:
    host = Host(directory)
    keeper = DatasetKeeper(host.datasets, directory, DiskThread(), PolicyFile())

    def settle() -> str:
        """What it says."""
        capfd.readouterr()
        asyncio.run(keeper.settle())
        said = capfd.readouterr()
        return said.out + said.err

    before = traces(directory)
    assert settle() == ""
    with running_service() as endpoint:
        write_keys(endpoint)
        mounts = [
            dataset(),
            dataset(
                mount_id="m2",
                kind="S3",
                location="s3://models/imagenet",
                endpoint=endpoint,
                path="/mnt/bucket",
            ),
            dataset(mount_id="m3", account=BOB, path="/mnt/bobs", read_only=False),
        ]
        assert [host.mount(one) for one in mounts] == [None] * 3
        whole = [line for line in traces(directory) if not line.startswith("s3fs")]

        def is_whole() -> bool:
            seen = as_user(ADA, "cat", f"{mounts[0].path}/canary", "/mnt/bucket/a/one").stdout
            now = [line for line in traces(directory) if not line.startswith("s3fs")]
            return seen == "canarycanary" and now == whole

        assert is_whole()
        assert settle() == ""
        boot()
        assert not is_whole()
        assert settle().count("data set mounted again") == 3
        assert is_whole()

        # A client that dies while somebody is in it.
        for pid in clients_of("s3fs", ROOT / ADA / "m2"):
            tool("kill", "-KILL", str(pid))
        assert "not connected" in as_user(ADA, "ls", "/mnt/bucket/").stderr
        assert settle().count("data set mounted again") == 1
        assert is_whole()

        # A source that is away is waited for, and told once.
        boot()
        away = host.imagenet.rename(host.sets / "away")
        said = settle()
        assert said.count("data set not mounted") == 2
        assert said.count("data set mounted again") == 1
        assert settle() == ""
        away.rename(host.imagenet)
        assert settle().count("data set mounted again") == 2
        assert is_whole()

        # Nothing that the owner does not allow any more, and nothing of who is being cleaned.
        boot()
        allow(ALLOWED.replace('"dataset.mount", ', ""))
        assert settle() == ""
        allow()
        ReclaimStore(directory).begin(
            Tenancy(allocation_of(ADA), Account(ADA, 1000, f"/home/{ADA}"), [])
        )
        host.allocations.remove(allocation_of(BOB))
        assert settle() == ""
        assert not Path("/run/remotegpu").exists()
        for account in (ADA, BOB):
            host.datasets.clear(account, lambda: None)
    assert traces(directory) == before

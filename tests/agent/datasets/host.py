"""A host of the test's own with accounts that the agent made, and its handlers of data sets."""

import asyncio
import os
import pwd
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from remotegpu_agent.accounts.accounts import Accounts
from remotegpu_agent.commands.allocations import Allocation, AllocationStore
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed, LookedUp
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.handlers import MountDataset, UnmountDataset
from remotegpu_agent.datasets.records import ROOT, MountStore
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import DatasetMount, DatasetUnmount
from tests.agent.reclaim.isolation import require_isolation

ADA, BOB = "rg-adaaaaaaaaaa", "rg-bobbbbbbbbbb"
POLICY = Path("/etc/remotegpu/policy.toml")
KINDS = '"allocation.start", "allocation.end", "account.keys", "dataset.mount", "dataset.unmount"'
ALLOWED = f"""
commands = [{KINDS}]
mount_roots = ["/srv/sets", "/etc", "/home", "/srv/alias", "/mnt/lab"]
nfs_exports = ["127.0.0.1:/export"]
cleaning = true
"""


def allow(text: str = ALLOWED) -> None:
    require_isolation()
    POLICY.parent.mkdir(mode=0o755, exist_ok=True)
    POLICY.write_text(text)


def allocation_of(account: str) -> str:
    return f"allocation-{account[3:6]}"


_STAY = {"/run/remotegpu", str(ROOT), "/run/remotegpu/s3"}


class Host:
    """Data sets lie below /srv/sets, which root owns; `imagenet` in it has a file that all read."""

    def __init__(self, directory: StateDirectory) -> None:
        allow()
        self.directory = directory
        self.sets = Path("/srv/sets")
        self.imagenet = self.sets / "imagenet"
        self.imagenet.mkdir(parents=True, exist_ok=True)
        (self.imagenet / "canary").write_text("canary")
        self.allocations = AllocationStore(directory)
        self.datasets = Datasets(MountStore(directory))
        disk, policy = DiskThread(), PolicyFile()
        self.mounter = MountDataset(
            self.datasets, self.allocations, disk, policy, self.directory.path
        )
        self.unmounter = UnmountDataset(self.datasets)
        for account in (ADA, BOB):
            Accounts(range(30_000, 30_100), "/bin/sh").ensure(account, [])
            self.allocations.put(
                Allocation(allocation_of(account), "somebody", False, [], 1, account)
            )

    def mount(self, mount: DatasetMount) -> str | None:
        """The code of the refusal; None when it is done."""
        return _code(self.mounter.run(mount, _quiet))

    def unmount(self, mount_id: str, account: str = ADA) -> str | None:
        return _code(self.unmounter.run(DatasetUnmount(mount_id, allocation_of(account)), _quiet))

    def looked_up(self, mount: DatasetMount) -> LookedUp:
        return asyncio.run(self.mounter.look_up(mount))


def _code(work: Coroutine[Any, Any, object]) -> str | None:
    try:
        asyncio.run(work)
    except CommandFailed as error:
        return error.code
    return None


async def _quiet(_progress: Progress) -> None:
    pass


def dataset(**changes: object) -> DatasetMount:
    values = {
        "mount_id": "m1",
        "allocation_id": allocation_of(str(changes.get("account", ADA))),
        "account": ADA,
        "kind": "DIRECTORY",
        "location": "/srv/sets/imagenet",
        "path": "/mnt/team/imagenet",
        "read_only": True,
    } | changes
    return msgspec.convert(values, DatasetMount)


def as_user(account: str, *command: str) -> "subprocess.CompletedProcess[str]":
    entry = pwd.getpwnam(account)
    return subprocess.run(
        command,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def traces(directory: StateDirectory) -> list[str]:
    """All that mounting changes on a host, by other means than the agent's."""
    # Without the numbers of mounts and devices: the kernel gives new ones to each FUSE mount.
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split(" ", 3)[3] for line in lines if str(ROOT) in line]
    for root in ("/mnt", "/srv", "/run/remotegpu"):
        if not os.path.lexists(root):
            continue
        listed = subprocess.run(
            ["find", root, "-xdev", "-printf", "%p %y %l %U %m\n"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        # Directories of the agent's own stay.
        found += [line for line in listed.stdout.splitlines() if line.split()[0] not in _STAY]
    kept = directory.path / "mounts.json"
    if kept.exists() and any(msgspec.json.decode(kept.read_bytes()).values()):
        found.append(kept.read_text())
    for pid in Path("/proc").iterdir():
        if pid.name.isdecimal() and b"s3fs" in (pid / "cmdline").read_bytes():
            found.append(f"s3fs {pid.name}")
    return sorted(found)

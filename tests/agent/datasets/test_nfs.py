"""NFS as far as a kernel without it goes: what is asked first, and what is given to mount(8)."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.datasets.nfs import Nfs
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.datasets import SourceKind
from tests.agent.datasets.host import ALLOWED, Host, allow, dataset, traces
from tests.agent.reclaim.isolation import require_isolation

pytestmark = pytest.mark.isolated

#: What mount(8) hands over to, which writes down how, and mounts something else.
_RECORD = f"""#!{sys.executable}
import json, os, subprocess, sys
json.dump(sys.argv[1:], open("/run/argv", "w"))
subprocess.run(["mount", "-t", "tmpfs", "-o", "nosuid,nodev,ro", "tmpfs", sys.argv[2]], check=True)
"""


def record(location: str, *, read_only: bool = True) -> MountRecord:
    return MountRecord(
        "m1", "a1", "rg-adaaaaaaaaaa", 1, 1, SourceKind.NFS, location, "/mnt/x", read_only
    )


def code(source: Nfs) -> str | None:
    try:
        asyncio.run(source.check())
    except CommandFailed as error:
        return error.code
    return None


def install_client() -> None:
    """As nfs-common does, in the directory where mount(8) looks; others of it are seen through."""
    require_isolation()
    for folder in ("upper", "work"):
        Path(f"/run/tools/{folder}").mkdir(parents=True)
    client = Path("/run/tools/upper/mount.nfs")
    client.write_text(_RECORD)
    client.chmod(0o755)
    options = "lowerdir=/usr/sbin,upperdir=/run/tools/upper,workdir=/run/tools/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", "/usr/sbin"], check=True)


def test_what_is_asked_and_what_is_done(directory: StateDirectory) -> None:
    host = Host(directory)
    before = traces(directory)
    assert PolicyFile().read().nfs_exports == ("127.0.0.1:/export",)
    for wrong in ("/export", "nas:/a/../b", "nas:/a,b"):
        allow(ALLOWED.replace("127.0.0.1:/export", wrong))
        read = PolicyFile().read()
        assert read.commands == frozenset()
        assert "export" in (read.message or "")
    allow()
    mount = dataset(kind="NFS", location="127.0.0.1:/export/imagenet")
    assert host.mount(mount) == "NO_NFS_CLIENT"
    install_client()
    assert host.mount(mount) == "NO_NFS"
    assert traces(directory) == before

    known = Path("/run/filesystems")
    known.write_text("nodev\tsysfs\nnodev\tnfs4\n\text4\n")
    exports = ["127.0.0.1:/export", "nowhere.invalid:/export", "[::1]:/export"]
    source = Nfs(record("127.0.0.1:/export/imagenet"), exports, known)
    assert code(source) == "SOURCE_UNREACHABLE"
    assert code(Nfs(record("nowhere.invalid:/export"), exports, known)) == "SOURCE_UNREACHABLE"
    with socket.create_server(("127.0.0.1", 2049)):
        assert code(source) is None
        assert code(Nfs(record("127.0.0.1:/exports"), exports, known)) == "SOURCE_NOT_ALLOWED"
        # All the rest is as it would be; but this is no NFS that came of it.
        host.datasets.check(source.record)
        with pytest.raises(CommandFailed) as refused:
            host.datasets.mount(source.record, source)
    assert refused.value.code == "MOUNT_FAILED"
    place = "/run/remotegpu/mounts/rg-adaaaaaaaaaa/m1"
    given = json.loads(Path("/run/argv").read_text())
    assert given[:2] == ["127.0.0.1:/export/imagenet", place]
    assert given[2] == "-o"
    assert set(given[3].split(",")) == {
        *("ro", "soft", "timeo=100", "retrans=3", "nosuid", "nodev", "retry=0"),
    } | ({"rw"} & set(given[3].split(",")))
    assert traces(directory) == before
    assert source.arguments() == [
        *("-t", "nfs", "-o", "ro,soft,timeo=100,retrans=3,nosuid,nodev,retry=0"),
        *("--", "127.0.0.1:/export/imagenet", place),
    ]
    writing = Nfs(record("[::1]:/export", read_only=False), exports).arguments()
    assert writing[3] == "rw,hard,nosuid,nodev,retry=0"
    assert writing[5] == "[::1]:/export"

"""Directories of a host, mounted for real accounts."""

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from remotegpu_agent.commands.handler import NOT_DONE, Done
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import Nothing
from tests.agent.datasets.host import ADA, ALLOWED, BOB, Host, allow, as_user, dataset, traces
from tests.agent.reclaim.tenant import tool

pytestmark = pytest.mark.isolated


def flags_at(pid: int, name: str) -> list[set[str]]:
    """Flags of what another process sees mounted at a place of that name."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    fields = [line.split() for line in lines]
    return [set(one[5].split(",")) for one in fields if Path(one[4]).name == name]


def test_what_its_user_sees_and_nobody_else(directory: StateDirectory) -> None:
    host = Host(directory)
    before = traces(directory)
    # On a file system that forbids more than the agent does, of which a part lies elsewhere.
    tool("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(host.imagenet))
    for folder in ("below", "mine"):
        (host.imagenet / folder).mkdir()
    tool("mount", "-t", "tmpfs", "tmpfs", str(host.imagenet / "below"))
    # As systemd makes all of them: what is mounted below appears in every copy.
    tool("mount", "--make-rshared", str(host.imagenet))
    tool("mount", "--make-rshared", "/run")
    (host.imagenet / "below" / "secret").write_text("secret")
    (host.imagenet / "canary").write_text("canary")
    os.chown(host.imagenet / "mine", pwd.getpwnam(ADA).pw_uid, -1)

    mount = dataset()
    # A view of its own, which a user without any rights could have as well.
    slave = ["unshare", "--mount", "--propagation", "slave", "sleep", "60"]
    aside = subprocess.Popen(slave)
    assert host.looked_up(mount) == NOT_DONE
    assert host.mount(mount) is None
    assert host.looked_up(mount) == Done(Nothing())
    # Done again, it changes nothing.
    there = traces(directory)
    assert host.mount(mount) is None
    assert traces(directory) == there

    path = Path(mount.path)
    assert path.readlink() == ROOT / ADA / "m1"
    assert as_user(ADA, "cat", f"{path}/canary").stdout == "canary"
    # What is mounted below the source is another's affair, now and later.
    assert as_user(ADA, "ls", f"{path}/below").stdout == ""
    tool("mount", "-t", "tmpfs", "tmpfs", str(host.imagenet / "mine"))
    assert len([line for line in traces(directory) if " - " in line]) == 1
    tool("umount", str(host.imagenet / "mine"))
    (line,) = (line for line in traces(directory) if " - " in line)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[2].split(","))
    # Never for a moment was it any other, or it would have stayed so there.
    assert any({"ro", "nosuid", "nodev"} <= flags for flags in flags_at(aside.pid, "m1"))
    refused = as_user(ADA, "touch", f"{path}/mine/new")
    assert "Read-only file system" in refused.stderr
    for way in (path, ROOT / ADA / "m1", ROOT / ADA):
        assert "Permission denied" in as_user(BOB, "ls", f"{way}/").stderr, way
    assert "Permission denied" in as_user(ADA, "ls", f"{ROOT}/{ADA}").stderr

    # Another one beside it, for writing, by another and by the same.
    second = dataset(mount_id="m2", path="/mnt/team/second", read_only=False)
    third = dataset(mount_id="m3", path="/mnt/team/third", account=BOB)
    assert [host.mount(one) for one in (second, third)] == [None, None]
    assert as_user(ADA, "touch", "/mnt/team/second/mine/new").returncode == 0
    assert (host.imagenet / "mine" / "new").exists()
    assert as_user(BOB, "cat", "/mnt/team/third/canary").stdout == "canary"
    assert "Permission denied" in as_user(BOB, "cat", "/mnt/team/second/canary").stderr

    # One goes while somebody is in it, and the others stay.
    inside = subprocess.Popen(["sleep", "60"], cwd=ROOT / ADA / "m2")
    assert host.unmount("m1") is None
    assert not path.is_symlink()
    assert flags_at(aside.pid, "m1") == []
    aside.kill()
    aside.wait()
    assert as_user(BOB, "cat", "/mnt/team/third/canary").stdout == "canary"
    assert host.unmount("m2") is None
    inside.kill()
    inside.wait()
    assert host.unmount("m3", BOB) is None
    # Again, and what never was.
    assert host.unmount("m1") is None
    assert host.unmount("never") is None
    assert (host.imagenet / "canary").read_text() == "canary"
    for point in (host.imagenet / "below", host.imagenet):
        tool("umount", str(point))
    assert traces(directory) == before


def at(*locations: str) -> list[dict[str, object]]:
    return [{"location": location} for location in locations]


def test_refusals_change_nothing(directory: StateDirectory) -> None:
    host = Host(directory)
    assert host.mount(dataset(mount_id="kept", path="/mnt/kept")) is None
    (host.sets / "link").symlink_to("/etc")
    (host.sets / "deep").mkdir()
    (host.sets / "deep" / "link").symlink_to(host.imagenet)
    Path("/srv/alias").symlink_to("/srv/sets")
    (host.sets / "file").write_text("no directory")
    (host.sets / "etc").mkdir()
    tool("mount", "--bind", "/etc", str(host.sets / "etc"))
    Path("/srv/elsewhere").mkdir()
    Path("/mnt/there").mkdir()
    Path("/mnt/lab/set").mkdir(parents=True)
    Path("/mnt/file").write_text("somebody's")
    Path("/mnt/way").symlink_to("/etc")
    Path("/mnt/dangling").symlink_to("/nowhere")
    Path("/mnt/open").mkdir()
    Path("/mnt/open").chmod(0o777)
    Path("/mnt/adas").mkdir()
    os.chown("/mnt/adas", pwd.getpwnam(ADA).pw_uid, -1)
    before = traces(directory)
    expected: dict[str, list[dict[str, object]]] = {
        "SOURCE_LINK": [
            *at("/srv/sets/link", "/srv/sets/link/ssh", "/srv/sets/deep/link"),
            *at("/srv/alias/imagenet"),
        ],
        "SOURCE_NOT_FOUND": [
            *at("/srv/sets/nothing", "/srv/sets/nothing/below", "/srv/sets/file"),
        ],
        "SOURCE_NOT_ALLOWED": [
            *at("/srv/elsewhere", "/srv", "/srv/sets2", "/srv/setsx/imagenet", "/opt/x"),
            {"kind": "NFS", "location": "127.0.0.1:/exported"},
            {"kind": "NFS", "location": "nas:/export"},
        ],
        "SYSTEM_DIRECTORY": [
            *at("/etc", "/etc/ssh", "/proc/1", "/var", "/usr/share", "/var/spool/x"),
            *at("/home", f"/home/{BOB}", f"/home/{BOB}/x"),
            *at("/srv/sets/etc", str(directory.path)),
        ],
        "PATH_TAKEN": [
            {"path": "/mnt/kept"},
            {"path": "/mnt/there"},
            {"path": "/mnt/file"},
            {"path": "/mnt/way"},
            {"path": "/mnt/dangling"},
        ],
        "UNSAFE_PATH": [
            {"path": "/mnt/way/new"},
            {"path": "/mnt/kept/new"},
            {"path": "/mnt/file/new"},
            {"path": "/mnt/open/new"},
            {"path": "/mnt/open/further/new"},
            {"path": "/mnt/adas/new"},
        ],
        "NOT_ITS_ACCOUNT": [
            {"account": BOB, "allocation_id": "allocation-ada"},
            {"account": ADA, "allocation_id": "allocation-bob"},
            {"account": "rg-aaaaaaaaaaaa", "allocation_id": "allocation-ada"},
        ],
        "PATH_IN_SOURCE": [
            {"location": "/mnt/lab", "path": "/mnt/lab/mine"},
            {"location": "/mnt/lab/set", "path": "/mnt/lab/set/deep/er"},
        ],
        "NO_SUCH_ALLOCATION": [{"allocation_id": "allocation-eve"}],
        "MOUNT_EXISTS": [
            {"mount_id": "kept"},
            {"mount_id": "kept", "path": "/mnt/kept", "read_only": False},
            {"mount_id": "kept", "path": "/mnt/kept", "account": BOB},
        ],
    }
    for code, cases in expected.items():
        for changes in cases:
            assert host.mount(dataset(**{"path": "/mnt/new/er"} | changes)) == code, changes
            assert traces(directory) == before, changes
    assert host.unmount("kept", BOB) == "NOT_ITS_MOUNT"
    # Where nothing would unmount it at the end, nothing is mounted.
    allow(ALLOWED.replace("cleaning = true", ""))
    assert host.mount(dataset()) == "NOT_ALLOWED"
    allow("mount_roots = [")
    assert host.mount(dataset()) == "NOT_ALLOWED"
    assert traces(directory) == before
    tool("umount", str(host.sets / "etc"))

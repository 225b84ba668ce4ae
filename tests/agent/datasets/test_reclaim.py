"""The end of an allocation: its mounts go, and what is behind them stays to the last bit."""

import asyncio
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from remotegpu_agent.commands.records import Progress
from remotegpu_agent.datasets.records import ROOT
from remotegpu_agent.reclaim.engine import Engine
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport
from tests.agent.datasets.host import ADA, BOB, Host, allocation_of, as_user, dataset, traces
from tests.agent.reclaim.tenant import tool
from tests.agent.reclaim.test_hosts import no_access

pytestmark = pytest.mark.isolated


def clean(host: Host, account: str) -> CleaningReport:
    entry = pwd.getpwnam(account)
    tenancy = Tenancy(allocation_of(account), Account(account, entry.pw_uid, entry.pw_dir), [], [])
    steps = make_steps(tenancy, AbsentSource(), {}, no_access(), host.datasets)

    async def report(_progress: Progress) -> None:
        pass

    return asyncio.run(Engine(steps, pause=0.01).run(report))


def item(report: CleaningReport) -> CleanedSurface:
    (found,) = (one for one in report.items if one.surface == "data sets")
    return found


def content(directory: Path) -> str:
    return tool("find", str(directory), "-printf", "%p %y %U %m %T@ %s\n")


def test_mounts_go_and_their_sources_stay(directory: StateDirectory) -> None:
    host = Host(directory)
    before = traces(directory)
    # A source of the same file system as what cleaning walks through, in which all may write.
    shared = Path("/srv/sets/shared")
    shared.mkdir()
    shared.chmod(0o1777)
    for account, name in ((ADA, "adas"), (BOB, "bobs")):
        for number, kind in enumerate(("imagenet", "shared")):
            mount = dataset(
                mount_id=f"{name}{number}",
                account=account,
                location=f"/srv/sets/{kind}",
                path=f"/mnt/{name}/{kind}",
                read_only=kind == "imagenet",
            )
            assert host.mount(mount) is None
        home = f"/home/{account}"
        for command in (
            ("touch", f"/mnt/{name}/shared/{name}"),
            ("mkdir", "-p", f"/mnt/{name}/shared/deep.{name}/er"),
            # Ways that lead there from where cleaning walks.
            ("ln", "-s", f"/mnt/{name}/shared", f"{home}/shared"),
            ("ln", "-s", f"/mnt/{name}/shared", f"/tmp/{name}"),  # noqa: S108 - of the test's own host
            ("ln", "-s", f"{ROOT}/{account}/{name}1", f"/dev/shm/{name}"),  # noqa: S108 - as above
        ):
            assert as_user(account, *command).returncode == 0, command
    # A process in it that nobody ends by unmounting, and one more that is not the user's.
    held = subprocess.Popen(["sleep", "100"], cwd=ROOT / ADA / "adas1")
    sources = content(host.sets)
    bobs = [line for line in traces(directory) if "bob" in line.lower() and "{" not in line]

    # Whoever made it open to others meanwhile keeps nothing from going.
    Path("/mnt/adas").chmod(0o777)
    # What the agent has no record of: an older mount of which the record was lost.
    orphan = ROOT / ADA / "orphan"
    orphan.mkdir()
    tool("mount", "--bind", str(shared), str(orphan))
    report = clean(host, ADA)
    assert report.verified, report
    assert (item(report).found, item(report).removed, item(report).action) == (3, 3, "unmounted")
    held.kill()
    held.wait()
    assert content(host.sets) == sources
    assert not os.path.lexists("/mnt/adas")
    assert not (ROOT / ADA).exists()
    assert [line for line in traces(directory) if "bob" in line.lower() and "{" not in line] == bobs
    assert as_user(BOB, "cat", "/mnt/bobs/imagenet/canary").stdout == "canary"

    # A source that cannot be taken away is told, and its account stays.
    tool("mount", "-t", "tmpfs", "tmpfs", str(ROOT / BOB / "bobs0"))
    kept = directory.path / "mounts.json"
    good = kept.read_bytes()
    kept.write_bytes(b"{")
    broken = clean(host, BOB)
    assert not broken.verified
    assert "mounts.json is damaged" in (item(broken).detail or "")
    assert tool("id", "-un", BOB) == f"{BOB}\n"
    kept.write_bytes(good)
    mended = clean(host, BOB)
    assert mended.verified, mended
    assert content(host.sets) == sources
    for path in (shared, host.imagenet):
        tool("rm", "-r", str(path))
    assert [line for line in traces(directory) if line not in before] == []

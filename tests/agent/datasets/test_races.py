"""Somebody who swaps directories for links while they are mounted."""

import subprocess
import sys
from pathlib import Path

import pytest

from remotegpu_agent.state_directory import StateDirectory
from tests.agent.datasets.host import ADA, Host, as_user, dataset, traces

pytestmark = pytest.mark.isolated

#: Ends with its standard input.
_SWAP = """
import os, select, sys
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for place in ("/srv/sets/deep", "/srv/sets/deep/er"):
        os.rename(place, place + ".aside")
        os.symlink("/etc", place)
        os.unlink(place)
        os.rename(place + ".aside", place)
"""
_ATTEMPTS = 150


def test_nothing_but_the_source_is_ever_mounted(directory: StateDirectory) -> None:
    host = Host(directory)
    source = host.sets / "deep" / "er"
    source.mkdir(parents=True)
    (source / "canary").write_text("canary")
    before = traces(directory)
    codes = set()
    swapper = subprocess.Popen(
        [sys.executable, "-c", _SWAP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert swapper.stdout is not None
    swapper.stdout.readline()
    mounted = 0
    for number in range(_ATTEMPTS):
        mount = dataset(mount_id=f"m{number}", location=str(source), path=f"/mnt/m{number}")
        code = host.mount(mount)
        codes.add(code)
        if code is None:
            mounted += 1
            assert [one.name for one in Path(mount.path).iterdir()] == ["canary"]
            assert as_user(ADA, "cat", f"{mount.path}/canary").stdout == "canary"
            assert host.unmount(mount.mount_id) is None
    swapper.communicate(b"\n", timeout=20)
    assert swapper.returncode == 0
    assert codes <= {None, "SOURCE_LINK", "SOURCE_NOT_FOUND"}, codes
    # It was swapped while it was looked for, and not only before.
    assert mounted
    assert len(codes) > 1, codes
    assert traces(directory) == before

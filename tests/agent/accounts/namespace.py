"""Runs a program on a host of its own: /etc is a copy, /home and /run are empty, and there is no
network but loopback."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SETUP = """
set -e
mount --bind "$2" /mnt
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /home
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
exec "$3" "$4" "$1"
"""


def _seen(path: str) -> str:
    """A path as it is inside, where the repository is at /mnt: its own place may be below /home."""
    return str(Path("/mnt") / Path(path).relative_to(ROOT)) if ROOT in Path(path).parents else path


def run_on_a_host(program: Path, folder: Path) -> None:
    """The program is called with a folder, and prints `all of it` at its end."""
    assert os.geteuid() == 0, "accounts are made by root: run this test as root"
    assert Path("/usr/sbin/sshd").exists(), "install openssh-server: scripts/test_packages.sh"
    found = subprocess.run(
        [
            *("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh"),
            *(str(folder), str(ROOT), _seen(sys.executable), _seen(str(program))),
        ],
        env=os.environ | {"PYTHONPATH": "/mnt/agent:/mnt/protocol:/mnt"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("all of it\n")

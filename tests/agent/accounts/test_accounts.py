"""Accounts on a real host: its own useradd and sshd, in a mount namespace of their own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SETUP = """
set -e
mount --bind "$5" /mnt
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /home
mount -t tmpfs -o mode=755 tmpfs /run
exec "$3" "$4" "$1" "$2"
"""


def _seen(path: str) -> str:
    """A path as it is inside, where the repository is at /mnt: its own place may be below /home."""
    return str(Path("/mnt") / Path(path).relative_to(ROOT)) if ROOT in Path(path).parents else path


def test_accounts_and_keys_on_a_host(tmp_path: Path, free_port: int) -> None:
    assert os.geteuid() == 0, "accounts are made by root: run this test as root"
    assert Path("/usr/sbin/sshd").exists(), "install openssh-server: scripts/test_packages.sh"
    passwd = Path("/etc/passwd").read_bytes()
    found = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh"),
            *(str(tmp_path), str(free_port), _seen(sys.executable)),
            *(_seen(str(HERE / "on_a_host.py")), str(ROOT)),
        ],
        env=os.environ | {"PYTHONPATH": "/mnt/agent:/mnt/protocol:/mnt"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("all of it\n")
    assert Path("/etc/passwd").read_bytes() == passwd

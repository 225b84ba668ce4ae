"""Accounts on a real host: its own useradd and sshd, in a mount namespace of their own."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETUP = """
set -e
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /home
mount -t tmpfs -o mode=755 tmpfs /run
exec "$3" "$4" "$1" "$2"
"""


def test_accounts_and_keys_on_a_host(tmp_path: Path, free_port: int) -> None:
    assert os.geteuid() == 0, "accounts are made by root: run this test as root"
    assert Path("/usr/sbin/sshd").exists(), "install openssh-server: scripts/test_packages.sh"
    passwd = Path("/etc/passwd").read_bytes()
    found = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh"),
            *(str(tmp_path), str(free_port), sys.executable, str(HERE / "on_a_host.py")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.endswith("all of it\n")
    assert Path("/etc/passwd").read_bytes() == passwd

"""The host's own sshd says where it listens, and by which keys it is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from remotegpu_agent.ssh_server import SshServerReader
from remotegpu_protocol.inventory import SshServer

SSHD = Path("/usr/sbin/sshd")

#: Reads, changes the configuration, and reads again with the same reader.
ASK = """
import sys
from pathlib import Path
import msgspec
from remotegpu_agent.ssh_server import SshServerReader

folder = Path(sys.argv[1])
reader = SshServerReader(configuration=folder)
answers = [reader.read(), reader.read()]
(folder / "new").write_text(f"Port 2200\\nPort 22\\nHostKey {folder}/rsa\\n")
(folder / "new").rename(folder / "sshd_config")
answers.append(reader.read())
print(msgspec.json.encode(answers).decode())
"""
SETUP = 'mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd && exec "$@"'


def _make_key(path: Path, algorithm: str, *options: str) -> str:
    """A host key; its fingerprint as ssh-keygen shows it."""
    subprocess.run(
        ["ssh-keygen", "-q", "-N", "", "-t", algorithm, *options, "-f", path], check=True
    )
    shown = subprocess.run(
        ["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True
    )
    return shown.stdout.split()[1]


def test_what_sshd_says_of_itself(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "sshd tells its configuration to root: run this test as root"
    assert SSHD.exists(), "install openssh-server: scripts/test_packages.sh"
    first = _make_key(tmp_path / "first", "ed25519")
    rsa = _make_key(tmp_path / "rsa", "rsa", "-b", "3072")
    (tmp_path / "sshd_config").write_text(f"Port 2222\nHostKey {tmp_path}/first\n")
    found = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP, "sh"),
            *(sys.executable, "-c", ASK, str(tmp_path)),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    one = {"port": 2222, "host_keys": [{"algorithm": "ssh-ed25519", "fingerprint": first}]}
    other = {"port": 2200, "host_keys": [{"algorithm": "ssh-rsa", "fingerprint": rsa}]}
    assert json.loads(found.stdout) == [one, one, other]


def test_a_host_whose_sshd_says_nothing_has_the_usual(tmp_path: Path) -> None:
    """Where it never ran, or the agent is not root."""
    fingerprint = _make_key(tmp_path / "ssh_host_ed25519_key", "ed25519")
    (tmp_path / "ssh_host_rsa_key.pub").write_text("ssh-rsa !!!\n")
    (tmp_path / "ssh_host_ecdsa_key.pub").write_bytes(b"\xff")
    server = SshServerReader(configuration=tmp_path).read()
    assert server is not None
    assert server.port == 22
    assert [(key.algorithm, key.fingerprint) for key in server.host_keys] == [
        ("ssh-ed25519", fingerprint)
    ]


@pytest.mark.parametrize(("text", "port"), [("Port 99999", 22), ("nonsense", 22)])
def test_what_makes_no_sense(tmp_path: Path, text: str, port: int) -> None:
    (tmp_path / "sshd_config").write_text(text)
    assert SshServerReader(configuration=tmp_path).read() == SshServer(port, [])


def test_no_server(tmp_path: Path) -> None:
    assert SshServerReader(tmp_path / "sshd", tmp_path).read() is None

"""Accounts on a real host: its own useradd and sshd, in a mount namespace of their own."""

from pathlib import Path

from tests.agent.accounts.namespace import run_on_a_host


def test_accounts_and_keys_on_a_host(tmp_path: Path) -> None:
    passwd = Path("/etc/passwd").read_bytes()
    run_on_a_host(Path(__file__).parent / "on_a_host.py", tmp_path)
    assert Path("/etc/passwd").read_bytes() == passwd

"""Names of processes, real ones and files as other processes have them."""

import os
import pwd
from pathlib import Path

import pytest

from remotegpu_agent.sources.processes import ProcessNames


def test_this_very_process() -> None:
    names = ProcessNames()
    assert names.username(os.getpid()) == pwd.getpwuid(os.getuid()).pw_name
    assert names.name(os.getpid())


def test_a_process_that_ended() -> None:
    names = ProcessNames()
    assert names.name(4_194_305) is None
    assert names.username(4_194_305) is None


@pytest.mark.parametrize(
    ("comm", "cmdline", "expected"),
    [
        (b"python3\n", b"python3\0train.py\0", "python3"),
        # The kernel cuts names to 15 bytes; the command line has the rest.
        (b"text-generation\n", b"/opt/text-generation-server\0--port\0", "text-generation-server"),
        (b"renamed-by-itse\n", b"/usr/bin/something-else\0", "renamed-by-itse"),
        (b"bad\xff\x1b[2J\n", b"", "bad\ufffd [2J"),
        (b"\n", b"", None),
    ],
)
def test_names(tmp_path: Path, comm: bytes, cmdline: bytes, expected: str | None) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_bytes(comm)
    (tmp_path / "7" / "cmdline").write_bytes(cmdline)
    assert ProcessNames(tmp_path).name(7) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_user_without_a_name_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    os.chown(tmp_path / "7", 54321, -1)
    assert ProcessNames(tmp_path).username(7) == "54321"

"""The state directory on a real file system."""

import os
import stat
from pathlib import Path

import pytest

from remotegpu_agent.errors import AlreadyRunning, StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory, default_state_directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_it_makes_is_private(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path / "a" / "b")
    directory.create()
    directory.write("file", b"content")
    assert mode(directory.path) == 0o700
    assert mode(directory.path / "file") == 0o600
    assert directory.read("file") == b"content"
    assert directory.read("other") is None


def test_a_failed_write_leaves_the_old_file(directory: StateDirectory) -> None:
    directory.write("file", b"old")
    # A directory in the temporary file's place makes the write fail half-way.
    (directory.path / f".file.{os.getpid()}").mkdir()
    with pytest.raises(StateDirectoryError, match="cannot be written to"):
        directory.write("file", b"new")
    assert directory.read("file") == b"old"


@pytest.mark.parametrize("loose", [0o750, 0o701, 0o777])
def test_a_directory_open_to_others_is_refused(directory: StateDirectory, loose: int) -> None:
    directory.path.chmod(loose)
    with pytest.raises(StateDirectoryError, match="chmod 700"):
        directory.create()


@pytest.mark.parametrize("loose", [0o640, 0o604])
def test_a_file_open_to_others_is_refused(directory: StateDirectory, loose: int) -> None:
    directory.write("file", b"secret")
    (directory.path / "file").chmod(loose)
    with pytest.raises(StateDirectoryError, match="chmod 600"):
        directory.read("file")


def test_a_link_is_not_followed(directory: StateDirectory, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"x")
    (directory.path / "file").symlink_to(target)
    with pytest.raises(StateDirectoryError, match="cannot be read"):
        directory.read("file")
    link = tmp_path / "link"
    link.symlink_to(directory.path)
    with pytest.raises(StateDirectoryError, match="not a directory"):
        StateDirectory(link).check()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.touch()
    with pytest.raises(StateDirectoryError, match="cannot be made"):
        StateDirectory(file).create()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(directory: StateDirectory) -> None:
    os.chown(directory.path, 12345, -1)
    with pytest.raises(StateDirectoryError, match="belongs to user 12345"):
        directory.check()


def test_one_agent_at_a_time(directory: StateDirectory) -> None:
    assert not directory.in_use()
    with directory.locked():
        assert directory.in_use()
        with pytest.raises(AlreadyRunning), StateDirectory(directory.path).locked():
            pass
    assert not directory.in_use()
    with directory.locked():
        pass


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_directory() == Path("/var/lib/remotegpu-agent")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_directory() == tmp_path / "remotegpu-agent"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_directory() == tmp_path / ".local/state/remotegpu-agent"

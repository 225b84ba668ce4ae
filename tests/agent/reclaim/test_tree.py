"""Trees whose owners are not trusted: one whose files have to go, and another who is in the way."""

import itertools
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from remotegpu_agent.reclaim import walk
from remotegpu_agent.reclaim.step import Deadline
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_agent.reclaim.walk import KEPT_LEVELS, opened

MINE, OTHER = 20_001, 20_002


@pytest.fixture(autouse=True)
def _as_root() -> None:
    assert os.geteuid() == 0, "Run this as root: trees are seen without what is mounted in them."


def tree(root: Path, *, uid: int = MINE, seconds: float = 60) -> Tree:
    return Tree(root, lambda one: one == uid, Deadline(seconds))


def give(root: Path, uid: int = MINE) -> None:
    """All that is below it."""
    for path in root.rglob("*"):
        os.chown(path, uid, uid, follow_symlinks=False)


def chain(root: Path, levels: int, *, uid: int, last: int = MINE) -> None:
    """Directories of `uid` in one another, and a file of `last` in the last one."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        os.chown("d", uid, uid, dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.chown("file", last, last, dir_fd=here)
    os.close(here)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    others, root = tmp_path / "others", tmp_path / "root"
    (others / "kept").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "link").symlink_to(others)
    (root / "b").symlink_to("/")
    (root / "a" / "b" / "file").touch()
    os.mkfifo(root / "pipe")
    give(root)
    assert tree(root).look().count == 6
    tree(root).remove()
    assert list(root.iterdir()) == []
    assert (others / "kept").is_dir()


def test_a_link_on_the_way_is_no_way(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError), opened(tmp_path / "link"):
        pass


def test_of_others_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    give(tmp_path, OTHER)
    assert tree(tmp_path).look().count == 0
    tree(tmp_path).remove()
    assert tree(tmp_path, uid=OTHER).look().count == 3


@pytest.mark.parametrize("limit", [walk.MAX_LEVELS, KEPT_LEVELS + 20])
def test_deeper_than_descriptors_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(walk, "MAX_LEVELS", limit)
    chain(tmp_path, 300, uid=MINE)
    assert tree(tmp_path).look().count == min(301, limit)
    tree(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_below_what_others_have_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain(tmp_path, 300, uid=OTHER)
    with monkeypatch.context() as bounded:
        bounded.setattr(walk, "MAX_LEVELS", 100)
        # What cannot be looked through is counted, and is no obstacle.
        shallow = tree(tmp_path)
        assert (shallow.look().count, shallow.skipped) == (0, 1)
    deep = tree(tmp_path)
    assert (deep.look().count, deep.skipped) == (1, 0)
    deep.remove()
    assert tree(tmp_path).look().count == 0
    assert tree(tmp_path, uid=OTHER).look().count == 300
    # So that what removes the directory of the test is not as careful.
    tree(tmp_path, uid=OTHER).remove()


def test_wider_than_names_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_MAX_NAMES", 0)
    monkeypatch.setattr(walk, "_MIN_NAMES", 7)
    for number in range(100):
        (tmp_path / str(number) / "in it").mkdir(parents=True)
    give(tmp_path)
    for number in range(100):
        os.chown(tmp_path / str(number), OTHER, OTHER)
    assert tree(tmp_path).look().count == 100
    tree(tmp_path).remove()
    assert (tree(tmp_path).look().count, tree(tmp_path, uid=OTHER).look().count) == (0, 100)


@contextmanager
def moving(*turns: tuple[Path, Path]) -> Iterator[None]:
    """Somebody who renames these to and fro all the time."""
    over, begun = threading.Event(), threading.Event()

    def move() -> None:
        for old, new in itertools.cycle([*turns, *((new, old) for old, new in turns)]):
            with suppress(OSError):
                old.rename(new)
            begun.set()
            if over.wait(0.001):
                return

    mover = threading.Thread(target=move)
    mover.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        mover.join()


def test_others_who_move_what_is_walked(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    # One is moved under another one, deep below, where the way back is not held open.
    chain(tmp_path / "1", 2 * KEPT_LEVELS, uid=OTHER)
    bottom = tmp_path.joinpath("1", *["d"] * (2 * KEPT_LEVELS))
    for name in ("x", "y"):
        (bottom / name).mkdir()
        chain(bottom / name, 50, uid=OTHER)
    chain(tmp_path / "2", 20, uid=MINE)
    with moving((bottom / "x" / "d", bottom / "y" / "e"), (tmp_path / "1", tmp_path / "3")):
        for _ in range(3):
            tree(tmp_path).remove()
        assert list((tmp_path / "2").iterdir()) == []
    tree(tmp_path).remove()
    assert tree(tmp_path).look().count == 0
    tree(tmp_path, uid=OTHER).remove()


def test_what_is_renamed_before_it_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a directory that is nobody's, such as /tmp."""
    chain(tmp_path, 3, uid=OTHER)
    find = walk.Walk._find
    renamed = iter(range(10**6))

    def rename_first(self: walk.Walk, name: str, inode: int, level: walk.Level) -> object:
        (path,) = tmp_path.iterdir()
        path.rename(tmp_path / f"renamed {next(renamed)}")
        return find(self, name, inode, level)

    monkeypatch.setattr(walk.Walk, "_find", rename_first)
    assert tree(tmp_path).look().count == 1
    tree(tmp_path).remove()
    monkeypatch.undo()
    assert tree(tmp_path).look().count == 0


def test_others_do_not_use_up_the_time(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    give(tmp_path, OTHER)
    (tmp_path / "z").mkdir()
    give(tmp_path / "z")
    os.chown(tmp_path / "z", MINE, MINE)
    (tmp_path / "z" / "file").touch()
    os.chown(tmp_path / "z" / "file", MINE, MINE)
    limited = tree(tmp_path)
    over = Deadline(0)

    class Impatient(walk.Walk):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]  # as they came
            self._patience = over

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("remotegpu_agent.reclaim.tree.Walk", Impatient)
        assert (limited.look().count, limited.skipped) == (2, 1)
        limited.remove()
    assert not (tmp_path / "z").exists()


def test_what_others_have_in_ones_own(tmp_path: Path) -> None:
    """A directory that cannot go becomes theirs, and the user has nothing in it any more."""
    ours = tmp_path / "ours"
    (ours / "deep" / "er").mkdir(parents=True)
    (ours / "empty").mkdir()
    (ours / "file").touch()
    give(tmp_path)
    ours.chmod(0o4777)
    os.setxattr(ours, "system.posix_acl_access", _access_list(MINE))
    theirs = ours / "deep" / "er" / "theirs"
    theirs.write_text("kept")
    os.chown(theirs, OTHER, OTHER)
    removal = tree(tmp_path)
    removal.remove()
    assert tree(tmp_path).look().count == 0
    assert removal.handed_over == [str(ours / "deep" / "er"), str(ours / "deep"), str(ours)]
    assert theirs.read_text() == "kept"
    found = ours.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OTHER, 0, 0o777)
    assert os.listxattr(ours) == []
    # With the other's own end, all of it goes.
    tree(tmp_path, uid=OTHER).remove()
    assert list(tmp_path.iterdir()) == []


def _access_list(uid: int) -> bytes:
    """user::rwx, user:UID:rwx, group::rwx, mask::rwx, other::rwx (linux/posix_acl_xattr.h)."""
    entries = ((1, 2**32 - 1), (2, uid), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1))
    packed = [
        tag.to_bytes(2, "little") + (7).to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, who in entries
    ]
    return (2).to_bytes(4, "little") + b"".join(packed)


def test_a_file_with_another_name_elsewhere(tmp_path: Path) -> None:
    """What others hold of a file is worth nothing once its name is gone."""
    (tmp_path / "root").mkdir()
    program, data = tmp_path / "root" / "program", tmp_path / "root" / "data"
    program.write_text("#!/bin/sh")
    data.write_text("secret")
    give(tmp_path / "root")
    program.chmod(0o4755)
    os.link(data, tmp_path / "elsewhere")
    with program.open("rb") as held:
        tree(tmp_path / "root").remove()
        found = os.fstat(held.fileno())
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0)
    left = (tmp_path / "elsewhere").stat()
    assert (left.st_uid, stat.S_IMODE(left.st_mode), left.st_size) == (0, 0, 0)


def test_time_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    give(tmp_path)
    with pytest.raises(TimeoutError):
        tree(tmp_path, seconds=0).remove()
    assert (tmp_path / "file").exists()

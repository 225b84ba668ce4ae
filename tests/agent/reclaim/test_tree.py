"""Trees whose owner is not trusted."""

import os
from pathlib import Path

import pytest

from remotegpu_agent.reclaim.step import Deadline
from remotegpu_agent.reclaim.tree import MAX_DEPTH, Tree, opened

MINE = os.geteuid()


def tree(root: Path, *, mine: bool = True, all_in_it: bool = False) -> Tree:
    return Tree(root, lambda uid: mine and uid == MINE, Deadline(20), all_in_it=all_in_it)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    others, root = tmp_path / "others", tmp_path / "root"
    (others / "kept").mkdir(parents=True)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "link").symlink_to(others)
    (root / "b").symlink_to("/")
    (root / "a" / "b" / "file").touch()
    os.mkfifo(root / "pipe")
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
    assert tree(tmp_path, mine=False).look().count == 0
    tree(tmp_path, mine=False).remove()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_deeper_than_descriptors_go(tmp_path: Path) -> None:
    """A tree without end hides nothing and survives nothing."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3 * MAX_DEPTH):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    assert tree(tmp_path).look().count > MAX_DEPTH
    tree(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_time_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    deadline = Deadline(20)
    deadline.expire()
    with pytest.raises(TimeoutError):
        Tree(tmp_path, lambda uid: True, deadline).remove()
    assert (tmp_path / "file").exists()

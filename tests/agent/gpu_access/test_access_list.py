"""Lists as the kernel takes them, gives them back and obeys them."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_agent.gpu_access.access_list import AccessList, read_access, write_access

RIGHTS = st.integers(0, 7)
IDS = st.dictionaries(st.integers(0, 2**32 - 2), RIGHTS, max_size=5)


@given(RIGHTS, RIGHTS, RIGHTS, IDS, IDS, RIGHTS)
def test_packed_and_parsed(
    owner: int, group: int, other: int, users: dict[int, int], groups: dict[int, int], mask: int
) -> None:
    access = AccessList(owner, group, other, users, groups, mask)
    assert AccessList.parse(access.packed()) == access


@given(st.binary(max_size=80))
def test_anything_else_is_an_error(packed: bytes) -> None:
    try:
        AccessList.parse(packed)
    except ValueError as error:
        assert "access control list" in str(error)  # noqa: PT017 - most inputs are errors, few are not


def test_the_kernel_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "device"
    os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(1, 3))
    path.chmod(0o660)
    assert read_access(path) == AccessList(6, 6, 0)
    wanted = read_access(path).changed(users={30001: 6, 7: 4}, other=0)
    write_access(path, wanted)
    assert read_access(path) == wanted
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert wanted.lets(30001, 6)
    assert not wanted.lets(7, 6)
    assert not wanted.lets(8, 4)
    # What a mode takes away, the mask takes away from everybody in the list.
    path.chmod(0o600)
    assert not read_access(path).lets(30001, 4)
    # An empty list is a mode again.
    write_access(path, read_access(path).changed(users={}, other=0))
    assert os.listxattr(path) == []
    assert read_access(path) == AccessList(6, 6, 0)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match=r"not supported|Operation"):
        write_access(link, wanted)
    with pytest.raises(FileNotFoundError):
        read_access(tmp_path / "nothing")

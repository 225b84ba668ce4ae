"""The system calls of mounting that Python does not have.

A directory is mounted as a copy that gets its flags before anybody can see it. With mount(2) it
would be writable for a moment, and stay so in every mount namespace that copied it meanwhile.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

#: The same on every architecture.
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_ATTR_RDONLY: Final = 0x1
_ATTR_NOSUID: Final = 0x2
_ATTR_NODEV: Final = 0x4
#: What is mounted below the source later does not appear in the copy.
_MS_PRIVATE: Final = 1 << 18

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount_directory(source: int, place: Path, *, read_only: bool) -> None:
    """Mount the directory behind the descriptor `source` at `place`; never with devices or set-id
    programs. What is mounted below it is not taken along.

    Raises:
        OSError: the kernel refuses; ENOSYS before Linux 5.12.
    """
    tree = bare_copy(source)
    try:
        wanted = _ATTR_NOSUID | _ATTR_NODEV | (_ATTR_RDONLY if read_only else 0)
        attributes = _MountAttributes(attr_set=wanted, propagation=_MS_PRIVATE)
        size = ctypes.sizeof(attributes)
        _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(place), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def bare_copy(source: int) -> int:
    """A descriptor of a copy of the directory behind `source` in which nothing is mounted on anything.
    It is at no place: only this process sees it, for as long as the descriptor is open.

    Raises:
        OSError: the kernel refuses (EPERM without CAP_SYS_ADMIN); ENOSYS before Linux 5.2.
    """
    return _call(_OPEN_TREE, source, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)


def unmount(place: Path) -> None:
    """Unmount what is mounted at `place`, when nobody uses it.

    Raises:
        OSError: somebody does (EBUSY), nothing is mounted there (EINVAL), or the kernel refuses.
    """
    _unmount(place, 0)


def detach(place: Path) -> None:
    """Unmount what is mounted at `place`, whoever uses it: it is let go when the last one is done.

    At once, too, where asking a server that is gone would hang. Raises like `unmount`.
    """
    _unmount(place, _MNT_DETACH)


def _unmount(place: Path, flags: int) -> None:
    # No link is followed in the last part.
    if _libc.umount2(os.fsencode(place), flags | _UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


def _call(number: int, *arguments: object) -> int:
    # Integers that syscall(2) takes are longs; ctypes would pass ints.
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    found: int = _libc.syscall(ctypes.c_long(number), *passed)
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found

"""Replacing the keys of an account, whatever its user has made of their home meanwhile."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Sequence
from typing import Final

DIRECTORY: Final = ".ssh"
FILE: Final = "authorized_keys"
#: sshd reads this one too unless it is told otherwise: a key in it would outlive a reset.
_SECOND_FILE: Final = "authorized_keys2"

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace_keys(home: str, uid: int, gid: int, lines: Sequence[str]) -> None:
    """Have exactly these lines in the account's `authorized_keys`, in one step.

    No link is followed: the home belongs to whoever is signed in. What stands in the way is moved
    aside within the home.

    Raises:
        OSError: the home is not there, is another's, or cannot be written to.
    """
    home_fd = os.open(home, _OPEN)
    try:
        _check_owner(home_fd, home, uid)
        directory_fd = _open_directory(home_fd, uid, gid)
        try:
            content = "".join(f"{line}\n" for line in lines).encode()
            _write(directory_fd, content, uid, gid)
        finally:
            os.close(directory_fd)
    finally:
        os.close(home_fd)


def read_keys(home: str) -> list[str] | None:
    """Lines of the account's `authorized_keys`; None where there is no such file.

    Raises:
        OSError: it cannot be read, or a link is in the way.
    """
    try:
        home_fd = os.open(home, _OPEN)
        try:
            directory_fd = os.open(DIRECTORY, _OPEN, dir_fd=home_fd)
        finally:
            os.close(home_fd)
    except FileNotFoundError:
        return None
    try:
        file_fd = os.open(
            FILE,
            os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
            dir_fd=directory_fd,
        )
    except FileNotFoundError:
        return None
    finally:
        os.close(directory_fd)
    with os.fdopen(file_fd, encoding="utf-8", errors="replace") as file:
        return file.read(1024 * 1024).splitlines()


def _open_directory(home_fd: int, uid: int, gid: int) -> int:
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            os.mkdir(DIRECTORY, 0o700, dir_fd=home_fd)
        try:
            descriptor = os.open(DIRECTORY, _OPEN, dir_fd=home_fd)
            break
        except OSError as error:
            if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
                raise
            _move_aside(DIRECTORY, home_fd)
    else:
        raise OSError(f"{DIRECTORY} in the home is made into something else again and again")
    try:
        found = os.fstat(descriptor)
        if found.st_uid not in {0, uid}:
            raise PermissionError(f"{DIRECTORY} in the home belongs to user {found.st_uid}")
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(directory_fd: int, content: bytes, uid: int, gid: int) -> None:
    temporary = f".{FILE}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=directory_fd)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        _clear(_SECOND_FILE, directory_fd)
        try:
            os.rename(temporary, FILE, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except IsADirectoryError:
            _move_aside(FILE, directory_fd)
            os.rename(temporary, FILE, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        os.fsync(directory_fd)
    except BaseException:
        _clear(temporary, directory_fd)
        raise


def _clear(name: str, directory_fd: int) -> None:
    try:
        os.unlink(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _move_aside(name, directory_fd)


def _move_aside(name: str, directory_fd: int) -> None:
    aside = f".{name.lstrip('.')}.replaced.{secrets.token_hex(8)}"
    os.rename(name, aside, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)


def _check_owner(descriptor: int, path: str, uid: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != uid or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path} belongs to user {found.st_uid}, not to {uid}")

"""A directory of the host itself."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.datasets.source import Source
from remotegpu_agent.mounting import mount_directory
from remotegpu_protocol.grammar import ACCOUNT_NAME, shorten

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: Neither these nor what is below them, whatever a policy says; and nothing that holds one.
SYSTEM: Final = tuple(
    map(
        PurePosixPath,
        (
            *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc"),
            *("/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var/cache", "/var/crash"),  # noqa: S108 - refused
            *("/var/lib/docker", "/var/lib/remotegpu-agent", "/var/log", "/var/mail", "/var/run"),
            *("/var/spool", "/var/tmp"),  # noqa: S108 - refused
        ),
    )
)
_HOMES: Final = PurePosixPath("/home")


class Directory(Source):
    """Below one of `roots`, the places that the host's owner gave for it."""

    def __init__(
        self,
        record: MountRecord,
        roots: Sequence[PurePosixPath],
        state: Path | None = None,
    ) -> None:
        super().__init__(record)
        self._roots = roots
        self._state = state

    async def check(self) -> None:
        with self._opened():
            pass

    def attach(self) -> None:
        # Opened again, since what lies there may have changed, and mounted as what was opened.
        with self._opened() as source:
            try:
                mount_directory(source, self.record.place, read_only=self.record.read_only)
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
                raise CommandFailed(
                    "KERNEL_TOO_OLD", "Directories are mounted with Linux 5.12 or newer."
                ) from None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        location = PurePosixPath(self.record.location)
        self._check_name(location)
        descriptor = os.open("/", _OPEN)
        try:
            so_far = PurePosixPath("/")
            for name in location.parts[1:]:
                so_far /= name
                deeper = _step(descriptor, name, so_far)
                os.close(descriptor)
                descriptor = deeper
            self._check_identity(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_name(self, location: PurePosixPath) -> None:
        if not location.is_absolute() or ".." in location.parts:
            raise CommandFailed(
                "INVALID_LOCATION",
                f"Expected an absolute path without '..', got {shorten(str(location))!r}.",
            )
        for system in self._kept():
            if _overlap(location, system):
                raise _system(location)
        if _HOMES in location.parents and ACCOUNT_NAME.fullmatch(location.parts[2]):
            raise _system(location)
        if not any(location == root or root in location.parents for root in self._roots):
            allowed = ", ".join(map(str, self._roots)) or "none"
            raise CommandFailed(
                "SOURCE_NOT_ALLOWED",
                f"{location} is below none of the mount_roots of this host's policy ({allowed}).",
            )

    def _check_identity(self, descriptor: int) -> None:
        """Also under another name, as with bind mounts."""
        found = os.fstat(descriptor)
        for system in (PurePosixPath("/"), _HOMES, *self._kept()):
            try:
                other = Path(system).stat()
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino):
                raise _system(PurePosixPath(self.record.location))

    def _kept(self) -> tuple[PurePosixPath, ...]:
        return SYSTEM if self._state is None else (*SYSTEM, PurePosixPath(self._state))


def _step(descriptor: int, name: str, path: PurePosixPath) -> int:
    try:
        return os.open(name, _OPEN, dir_fd=descriptor)
    except FileNotFoundError:
        raise CommandFailed(
            "SOURCE_NOT_FOUND", f"This host has no {path}. Check the location of the data set."
        ) from None
    except NotADirectoryError:
        pass
    if _is_link(descriptor, name):
        raise CommandFailed(
            "SOURCE_LINK",
            f"{path} is a symbolic link, which is not followed. Give the data set the path to which "
            "it leads.",
        )
    raise CommandFailed("SOURCE_NOT_FOUND", f"{path} is no directory on this host.")


def _is_link(descriptor: int, name: str) -> bool:
    """For the message only: whatever it has become by now, it is not entered."""
    try:
        found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISLNK(found.st_mode)


def _overlap(one: PurePosixPath, other: PurePosixPath) -> bool:
    return one == other or one in other.parents or other in one.parents


def _system(location: PurePosixPath) -> CommandFailed:
    return CommandFailed(
        "SYSTEM_DIRECTORY",
        f"{location} belongs to the system or to somebody, and is never mounted. Move the data to a "
        "directory of its own.",
    )

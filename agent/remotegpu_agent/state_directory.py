"""The directory where an agent keeps who it is, and the only one that it writes to."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from remotegpu_agent.durable import write_file
from remotegpu_agent.errors import AlreadyRunning, StateDirectoryError
from remotegpu_agent.reserve import Reserve, is_full

_LOCK: Final = "lock"

#: Bytes; nothing that the agent keeps comes near it.
_MAX_FILE: Final = 1024 * 1024


def default_state_directory() -> Path:
    """/var/lib/remotegpu-agent for root, else below the XDG state home of the user."""
    if os.geteuid() == 0:
        return Path("/var/lib/remotegpu-agent")
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "remotegpu-agent"


class StateDirectory:
    """A directory of mode 0700 whose files have mode 0600, all owned by whoever runs the agent."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        #: Room for what has to be written on a full disk.
        self.reserve = Reserve(self.path / "reserve")

    def exists(self) -> bool:
        try:
            return self.path.is_dir()
        except OSError:
            return False

    def create(self) -> None:
        """Make the directory unless it is there, and check it.

        Raises:
            StateDirectoryError: it cannot be made, or `check` does not hold.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable("cannot be made", error) from None
        self.check()

    def check(self) -> None:
        """Refuse a directory that somebody else could read or change.

        Raises:
            StateDirectoryError: it is missing, no directory, another user's, or open to others.
        """
        try:
            found = self.path.lstat()
        except OSError as error:
            raise self._unusable("cannot be opened", error) from None
        if not stat.S_ISDIR(found.st_mode):
            raise StateDirectoryError(
                f"The state directory {self.path} is not a directory. Name another with "
                "--state-dir."
            )
        _check_private(self.path, found, what="state directory", mode="700")

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None where there is none.

        Raises:
            StateDirectoryError: others can read the file, or it cannot be read.
        """
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(f"holds {name}, which cannot be read", error) from None
        with os.fdopen(descriptor, "rb") as file:
            _check_private(path, os.fstat(file.fileno()), what="file", mode="600")
            return file.read(_MAX_FILE)

    def check_file(self, name: str) -> None:
        """Refuse a file, if it is there, that somebody else could read or change.

        Raises:
            StateDirectoryError: it is another user's, open to others, or no file.
        """
        path = self.path / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(f"holds {name}, which cannot be read", error) from None
        if not stat.S_ISREG(found.st_mode):
            raise StateDirectoryError(f"{path} is not a file. Move it away.")
        _check_private(path, found, what="file", mode="600")

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Replace a file in one step. What is `durable` may use up the reserve.

        Raises:
            StateDirectoryError: it cannot be written.
        """
        while True:
            try:
                write_file(self.path / name, content, durable=durable)
            except OSError as error:
                if durable and is_full(error) and self.reserve.release():
                    continue
                raise self._unusable("cannot be written to", error) from None
            return

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(f"holds {name}, which cannot be removed", error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the kernel lets go of it when the process ends.

        Raises:
            AlreadyRunning: another agent holds it.
            StateDirectoryError: the lock cannot be made.
        """
        try:
            descriptor = os.open(
                self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._unusable("cannot be locked", error) from None
        try:
            if not _try_lock(descriptor):
                raise AlreadyRunning(
                    f"Another remotegpu-agent is using {self.path}. Stop it first, or name "
                    "another directory with --state-dir."
                )
            yield
        finally:
            os.close(descriptor)

    def in_use(self) -> bool:
        """Whether an agent runs on this directory right now."""
        try:
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def _unusable(self, what: str, error: OSError) -> StateDirectoryError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        advice = "Check the path."
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            advice = "Run as the user who owns it (root, usually) or choose with --state-dir."
        return StateDirectoryError(f"The state directory {self.path} {what}: {reason}. {advice}")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_private(path: Path, found: os.stat_result, *, what: str, mode: str) -> None:
    if found.st_uid != os.geteuid():
        raise StateDirectoryError(
            f"The {what} {path} belongs to user {found.st_uid}, this process runs as user "
            f"{os.geteuid()}. Run as its owner or choose with --state-dir."
        )
    if found.st_mode & 0o077:
        raise StateDirectoryError(
            f"The {what} {path} is open to other users (mode {stat.S_IMODE(found.st_mode):o}). "
            f"It holds the key of this host: chmod {mode} {path}"
        )

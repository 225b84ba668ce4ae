"""The host's own programs that make and remove accounts, one at a time."""

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_protocol.grammar import clean_text

#: Only root can write there.
_LOCK: Final = Path("/run/remotegpu-accounts.lock")
#: Seconds that a program may take, and that one which runs already is waited for.
PATIENCE: Final = 60
_POLL: Final = 0.05


class Run(Protocol):
    def __call__(self, program: str, *arguments: str) -> None:
        """Raises CommandFailed: it is not there, fails, or takes longer than PATIENCE."""


@contextlib.contextmanager
def alone() -> Iterator[Run]:
    """Run programs while nobody else does, not even a program that an agent left which was killed.

    Two `useradd` for one name, each too early to see the other's, both succeed and make it twice.

    Raises:
        CommandFailed: somebody else does for longer than PATIENCE, or there can be no lock.
    """
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandFailed(
            "ACCOUNTS_LOCKED", f"{_LOCK} cannot be opened: {clean_text(str(error))}."
        ) from None
    try:
        _take(lock)

        def run(program: str, *arguments: str) -> None:
            _run(lock, program, arguments)

        yield run
    finally:
        os.close(lock)


def _take(lock: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CommandFailed(
                    "ACCOUNTS_LOCKED",
                    f"Another program has been changing accounts here for {PATIENCE} s: see who "
                    f"has {_LOCK} open.",
                ) from None
            time.sleep(_POLL)
        else:
            return


def _run(lock: int, program: str, arguments: tuple[str, ...]) -> None:
    name = Path(program).name
    try:
        subprocess.run(  # noqa: S603 - an absolute program, checked arguments, no shell
            [program, *arguments],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            # It keeps the lock for as long as it lives, whatever becomes of the agent.
            pass_fds=(lock,),
        )
    except FileNotFoundError:
        raise CommandFailed(f"NO_{name.upper()}", f"{program} is not on this host.") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(name.upper(), f"{name} took more than {PATIENCE} s.") from None
    except subprocess.CalledProcessError as error:
        raise CommandFailed(
            name.upper(), f"{name} failed for {arguments[-1]}: {clean_text(error.stderr, 500)}"
        ) from None

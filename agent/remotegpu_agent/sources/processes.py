"""Names of processes and of their users, from /proc. Runs in the worker.

Looking up a user may ask a directory server and hang; in the worker that stops no heartbeat.
"""

import pwd
import time
from pathlib import Path
from typing import Final

from remotegpu_protocol.grammar import clean_text

#: The kernel cuts a process's name to so many bytes (TASK_COMM_LEN, proc(5)).
_COMM_BYTES: Final = 15

#: Characters that a sample has room for.
_MAX_NAME: Final = 128

#: Seconds for which the name of a user id is believed.
_USERS_LIFETIME: Final = 60.0


class ProcessNames:
    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._users: dict[int, str] = {}
        self._users_since = time.monotonic()

    def name(self, pid: int) -> str | None:
        """The program's name, or None where the process has ended or is not ours to see."""
        directory = self._proc / str(pid)
        try:
            comm = (directory / "comm").read_bytes().rstrip(b"\n")
            if len(comm) >= _COMM_BYTES:
                command = (directory / "cmdline").read_bytes().split(b"\0", 1)[0]
                program = command.rsplit(b"/", 1)[-1]
                if program.startswith(comm):
                    comm = program
        except OSError:
            return None
        return clean_text(comm, _MAX_NAME) or None

    def username(self, pid: int) -> str | None:
        """The login name of the process's user, its number where the number has no name."""
        try:
            uid = (self._proc / str(pid)).stat().st_uid
        except OSError:
            return None
        now = time.monotonic()
        if now - self._users_since > _USERS_LIFETIME:
            self._users.clear()
            self._users_since = now
        if uid not in self._users:
            try:
                self._users[uid] = clean_text(pwd.getpwuid(uid).pw_name, _MAX_NAME)
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]

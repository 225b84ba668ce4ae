"""How the link is, in a small file that `status` reads and `run` rewrites."""

import time
from enum import StrEnum
from typing import Final

import msgspec

from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory

_FILE: Final = "status.json"

#: Seconds between two writes.
_WRITE_INTERVAL: Final = 1.0


class LinkState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    #: Between two attempts.
    WAITING = "waiting"
    STOPPED = "stopped"


class CommandStatus(msgspec.Struct, frozen=True):
    """`allowed` kinds; `trouble` says why none is taken all the same, `damaged` which record of what
    was given to whom cannot be read."""

    allowed: list[str]
    waiting: int = 0
    running: int = 0
    unacknowledged: int = 0
    trouble: str | None = None
    damaged: str | None = None


class Status(msgspec.Struct):
    """Times in seconds since the Unix epoch."""

    link: LinkState
    since: float
    last_connected_at: float | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    last_sample_at: float | None = None
    epoch: int | None = None
    driver: str | None = None
    gpus: int | None = None
    commands: CommandStatus | None = None


class StatusFile:
    """Keeps the file up to date; a disk that is full or gone stops no agent."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._status = load_status(directory) or Status(LinkState.STOPPED, time.time())
        self._written_at = float("-inf")
        self._behind = False

    def connecting(self) -> None:
        self._move(LinkState.CONNECTING)

    def connected(self, epoch: int) -> None:
        self._status.epoch = epoch
        self._status.last_connected_at = time.time()
        self._move(LinkState.CONNECTED)

    def waiting(self, error: str) -> None:
        self._status.last_error = error
        self._status.last_error_at = time.time()
        self._move(LinkState.WAITING)

    def stopped(self) -> None:
        self._move(LinkState.STOPPED)
        self.flush()

    def sampled(self, at: float) -> None:
        self._status.last_sample_at = at
        self._changed()

    def inventoried(self, *, driver: str, gpus: int) -> None:
        self._status.driver = driver
        self._status.gpus = gpus
        self._changed()

    def commanded(self, commands: CommandStatus) -> None:
        if commands != self._status.commands:
            self._status.commands = commands
            self._changed()

    def flush(self) -> None:
        """Write what was held back because the write before was less than a second ago."""
        if self._behind:
            self._write()

    def _move(self, link: LinkState) -> None:
        if link is not self._status.link:
            self._status.link = link
            self._status.since = time.time()
        self._changed()

    def _changed(self) -> None:
        self._behind = True
        if time.monotonic() - self._written_at >= _WRITE_INTERVAL:
            self._write()

    def _write(self) -> None:
        self._written_at = time.monotonic()
        self._behind = False
        content = msgspec.json.format(msgspec.json.encode(self._status)) + b"\n"
        try:
            # Nothing is lost with it, so nobody waits for the disk.
            self._directory.write(_FILE, content, durable=False)
        except StateDirectoryError:
            self._behind = True


def load_status(directory: StateDirectory) -> Status | None:
    """What an agent last wrote, whether or not it still runs; None where that is unreadable.

    Raises:
        StateDirectoryError: others can read the file.
    """
    content = directory.read(_FILE)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Status)
    except msgspec.MsgspecError:
        return None

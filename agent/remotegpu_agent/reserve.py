"""Room on the disk of the state directory that is kept for the agent.

A user who has filled the disk must not keep the agent from writing down what it does, and so from
cleaning. The reserve is made of small files, each with its blocks and its inode. They are given up a
few at a time, right before what needs the room is written: whoever fills the disk gets the rest of it
otherwise.
"""

import asyncio
import errno
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Pieces, and bytes of each: 16 MiB and 64 inodes altogether.
PIECES: Final = 64
PIECE: Final = 256 * 1024
_AT_ONCE: Final = 4
#: With less than this free, what the agent writes next may find no room: a few pages of the journal,
#: a table of accounts with its copy.
_LOW_BYTES: Final = 2 * _AT_ONCE * PIECE
_LOW_INODES: Final = 2 * _AT_ONCE
#: Seconds between two looks at whether there is room to make it anew.
INTERVAL: Final = 30.0

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """Pieces in a directory of their own. Several threads may use it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._turn = threading.Lock()

    async def run(self) -> None:
        """Renew it now and again, until cancelled."""
        while True:
            await asyncio.to_thread(self.renew)
            await asyncio.sleep(INTERVAL)

    def renew(self) -> None:
        """Make the pieces that are missing, as far as the disk has far more room than they take. What
        cannot be made is left for the next time."""
        with self._turn, suppress(OSError):
            self._directory.mkdir(mode=0o700, exist_ok=True)
            for number in range(PIECES):
                path = self._piece(number)
                if not path.exists():
                    if _is_low(self._directory, PIECES * PIECE, PIECES):
                        return
                    _make(path)

    def make_room(self) -> None:
        """Before a write that must not fail: give up pieces until there is some room."""
        with suppress(OSError):
            while _is_low(self._directory, _LOW_BYTES, _LOW_INODES) and self.release():
                pass

    def release(self) -> bool:
        """Give up some pieces; False when there are none left."""
        with self._turn:
            pieces = [path for number in range(PIECES) if (path := self._piece(number)).exists()]
            for path in pieces[:_AT_ONCE]:
                with suppress(OSError):
                    path.unlink()
        return bool(pieces)

    def _piece(self, number: int) -> Path:
        return self._directory / f"{number:02}"


def is_full(error: OSError) -> bool:
    """Whether a write found no room."""
    return error.errno in _FULL


def _make(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, PIECE)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _is_low(directory: Path, size: int, inodes: int) -> bool:
    """Whether less is free. A file system that tells no limit has none."""
    found = os.statvfs(directory)
    free = found.f_bfree * found.f_frsize
    return bool(found.f_blocks and free < size) or bool(found.f_files and found.f_ffree < inodes)

"""A wall clock of another process that a test can set, as an administrator or a time server would."""

import time
from multiprocessing.sharedctypes import Synchronized

from tests.forking import CONTEXT


class WallClock:
    """Milliseconds by which the clock is ahead; hand it to the process, which calls `install`."""

    def __init__(self) -> None:
        self._ahead: Synchronized[int] = CONTEXT.Value("q", 0)

    @property
    def ahead(self) -> int:
        return self._ahead.value

    @ahead.setter
    def ahead(self, milliseconds: int) -> None:
        self._ahead.value = milliseconds

    def install(self) -> None:
        """Have this process read it. Clocks that nobody can set go on as they are."""
        seconds, nanoseconds, ahead = time.time, time.time_ns, self._ahead
        time.time = lambda: seconds() + ahead.value / 1000
        time.time_ns = lambda: nanoseconds() + ahead.value * 1_000_000

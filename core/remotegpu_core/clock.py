"""The control plane's clock, in the unit that every stored time has.

It is the host's wall clock, for as long as that agrees with the time that passed. When the wall
clock leaps (somebody set it, a time server was wrong), this one goes on without the leap until the
wall clock comes back or the leap is accepted: see `services.clock_watch`.
"""

import time
from typing import Final

#: Milliseconds by which the wall clock may step at once: what a time server corrects as a matter
#: of course. Also how far ahead of ours a stamp of another replica may be.
TOLERANCE: Final = 5_000

#: The first is not on every system that developers use.
_ELAPSED: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The wall clock without its leaps. Times are milliseconds since the Unix epoch."""

    def __init__(self) -> None:
        self._offset = self.wall() - self.elapsed()

    @staticmethod
    def wall() -> int:
        """What the host's wall clock says."""
        return time.time_ns() // 1_000_000

    @staticmethod
    def elapsed() -> int:
        """Milliseconds on a clock that cannot be set; a suspended host's time counts too."""
        return time.clock_gettime_ns(_ELAPSED) // 1_000_000

    def now(self) -> int:
        elapsed = self.elapsed()
        offset = self.wall() - elapsed
        if -TOLERANCE <= offset - self._offset <= TOLERANCE:
            # Time servers correct a little all the time.
            self._offset = offset
        return elapsed + self._offset

    def leap(self) -> int:
        """By how much the wall clock is ahead of this one; 0 while they agree."""
        return self.wall() - self.now()

    def adopt(self) -> None:
        """Take what the wall clock says now for the time."""
        self._offset = self.wall() - self.elapsed()


#: This process's clock.
CLOCK: Final = Clock()


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return CLOCK.now()


def credible(now: int) -> int:
    """The newest stamp of the past that is believed at `now`.

    One beyond was written by a clock that was ahead, and tells nothing of when it was written.
    """
    return now + TOLERANCE

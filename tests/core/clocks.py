"""Clocks that are wound by hand."""

from remotegpu_core.clock import Clock


class HandClock:
    """Stands in for `now_ms`; moves only when told to."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds


class WoundClock(Clock):
    """A process's clock whose wall clock and passing time are wound by hand, in milliseconds."""

    def __init__(self, now: int) -> None:
        self.wall_now, self.passed = now, 0
        super().__init__()

    def wall(self) -> int:  # type: ignore[override]  # static there: it reads the host's clock
        return self.wall_now

    def elapsed(self) -> int:  # type: ignore[override]  # as above
        return self.passed

    def pass_by(self, milliseconds: int) -> None:
        """Time passes, and the wall clock sees it."""
        self.wall_now += milliseconds
        self.passed += milliseconds

"""A clock that is wound by hand."""


class HandClock:
    """Stands in for `now_ms`; moves only when told to."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

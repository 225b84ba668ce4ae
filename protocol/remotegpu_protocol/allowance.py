"""How often something may happen: much at once, less for long."""


class Allowance:
    """A token bucket: `burst` at once, then `rate` a second. Times are monotonic seconds."""

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._counted_at = now

    def take(self, now: float) -> bool:
        """Use one up; False when none is left."""
        # Without min and max: every message of every agent passes here.
        elapsed = now - self._counted_at
        if elapsed > 0.0:
            self._counted_at = now
            left = self._left + elapsed * self._rate
            self._left = left if left < self._burst else self._burst
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

"""How long to wait before dialling again."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from remotegpu_protocol.limits import MAX_RETRY_AFTER


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds. The first wait is short, so that a restart of the control plane hardly shows, and
    random, so that a fleet does not come back in one instant."""

    first_low: float = 0.2
    first_high: float = 3.0
    cap: float = 15.0
    #: After a refusal that trying again within seconds cannot change.
    permanent: float = 60.0


class Backoff:
    """Exponential growth with full jitter.

    Full jitter, a wait anywhere between almost nothing and the bound, spreads a fleet best:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(
        self,
        pauses: Pauses | None = None,
        *,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        self._pauses = pauses or Pauses()
        self._uniform = uniform or random.uniform
        self._failures = 0
        self._spread = 0.0

    def succeeded(self, *, spread: float = 0.0) -> None:
        """The link was of use: the next wait is a first one again, which a large fleet spreads over
        `spread` seconds."""
        self._failures = 0
        self._spread = spread

    def next_pause(self, *, permanent: bool = False, retry_after: float | None = None) -> float:
        """Seconds to wait now; `retry_after`: as the control plane asked for."""
        pauses = self._pauses
        if permanent:
            return pauses.permanent * self._uniform(0.8, 1.2)
        if retry_after is not None:
            asked = min(max(retry_after, pauses.first_low), MAX_RETRY_AFTER)
            return asked * self._uniform(1.0, 1.2)
        # Beyond 2^16 any base has reached its cap, and the float stays finite.
        first, cap = max(pauses.first_high, self._spread), max(pauses.cap, self._spread)
        bound = min(cap, first * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._uniform(min(pauses.first_low, bound), bound)

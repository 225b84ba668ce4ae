"""How long to wait before dialling again."""

import random
from collections.abc import Callable
from dataclasses import dataclass


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

    def succeeded(self) -> None:
        """The link was of use: the next wait is a first one again."""
        self._failures = 0

    def next_pause(self, *, permanent: bool = False) -> float:
        """Seconds to wait now."""
        pauses = self._pauses
        if permanent:
            return pauses.permanent * self._uniform(0.8, 1.2)
        # Beyond 2^16 any base has reached its cap, and the float stays finite.
        bound = min(pauses.cap, pauses.first_high * 2 ** min(self._failures, 16))
        self._failures += 1
        return self._uniform(min(pauses.first_low, bound), bound)

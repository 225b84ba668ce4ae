"""Greetings: how many are in progress, and when agents beyond that are to come back.

A fleet that comes back at once must not be greeted at once: each greeting would take longer than
its agent waits, and all would begin again.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from remotegpu_api.places import Places
from remotegpu_core.errors import Overloaded
from remotegpu_protocol import errors as protocol
from remotegpu_protocol.limits import MAX_RETRY_AFTER, MAX_RETRY_SPREAD

#: Sockets that may be between their opening and their welcome, and those of one network among
#: them: one that opens sockets and says nothing leaves room for others.
MAX_GREETINGS: Final = 256
MAX_OF_NETWORK: Final = 192
#: Greetings, and inventories of agents that were just greeted, that are worked on at a time.
AT_ONCE: Final = 8
#: Seconds from the end of one greeting to the end of the next while others wait: before the first
#: was measured, and the range in which a measured one is believed.
_USUAL: Final = 1 / 400
_QUICKEST, _SLOWEST = 1 / 2000, 1 / 10
#: Seconds that an agent is sent away for at least.
_SOON: Final = 1.0
#: Part that one measured greeting has in the mean.
_WEIGHT: Final = 0.05


class Greetings:
    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.refused = 0
        self._now = now
        self._places = Places("greetings in progress", "network")
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._spacing = _USUAL
        self._ended_at: float | None = None
        #: When the agent that was sent away last is to be back.
        self._expected_at = 0.0

    @property
    def in_progress(self) -> int:
        return self._places.taken

    @contextlib.contextmanager
    def take(self, network: object) -> Iterator[None]:
        """A greeting's place, until the block ends.

        Raises:
            Overloaded: there is none; it says when to come back.
        """
        with contextlib.ExitStack() as place:
            try:
                place.enter_context(
                    self._places.take(network, total=MAX_GREETINGS, each=MAX_OF_NETWORK)
                )
            except Overloaded:
                self.refused += 1
                raise protocol.Overloaded(
                    "Many agents connect at this moment: come back a little later.",
                    retry_after=self._slot(),
                ) from None
            yield

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to be worked on, in the order of asking."""
        async with self._turns:
            try:
                yield
            finally:
                self._measure()

    def spread(self, fleet: int) -> float:
        """Seconds over which the agents of a fleet of so many machines are to spread their first
        attempts to come back."""
        return min(fleet * self._spacing, MAX_RETRY_SPREAD)

    def _slot(self) -> float:
        """Seconds until an agent that is sent away now is to be back: each has a moment of its own,
        behind those that were sent away before it."""
        now = self._now()
        begin = max(self._expected_at, now + MAX_GREETINGS * self._spacing, now + _SOON)
        self._expected_at = min(begin + self._spacing, now + MAX_RETRY_AFTER)
        return self._expected_at - now

    def _measure(self) -> None:
        now, before = self._now(), self._ended_at
        # Only what ended while others waited tells how fast it can go.
        self._ended_at = now if self._turns.locked() else None
        if before is not None:
            spacing = min(max(now - before, _QUICKEST), _SLOWEST)
            self._spacing += _WEIGHT * (spacing - self._spacing)

"""Rests between turns of the loop, so that what many agents say is read together.

Waking up costs more than a sample does: the kernel switches, and the processor's caches have gone
cold. Network cards moderate their interrupts for the same reason. Two thousand samples a second
that come one by one wake an idle process two thousand times; with rests, some seventy times.
"""

import asyncio
import time
from typing import Final

from remotegpu_core.clock import now_ms

#: Seconds of the longest rest, by which anything that this process does may be later.
LONGEST: Final = 0.015
#: Messages that a rest is to gather; one that would last too long for that is cut short, and is
#: not made where it would gather few.
ENOUGH: Final = 40.0
FEW: Final = 4.0
#: Share of its time that the loop's thread may have been at work in the last turn. A loop that has
#: more to do than that gathers messages without resting, and others wait for what it does.
AT_EASE: Final = 0.75


class Pace:
    """Told of each message that an agent sent; rests after what is there has been read."""

    def __init__(self) -> None:
        self.rests = 0
        #: When the turn's first message came: by the monotonic clock in seconds, and by the wall's
        #: in milliseconds. All that come with it came then.
        self.now = time.monotonic()
        self.clock = now_ms()
        self._took = 0
        self._turn_began = self.now
        self._worked = time.thread_time()

    def took(self) -> None:
        """A message came. The loop's thread may rest once, after all that came with it was read
        and handed on."""
        self._took += 1
        if self._took == 1:
            self.now, self.clock = time.monotonic(), now_ms()
            asyncio.get_running_loop().call_soon(self._all_is_read)

    def _all_is_read(self) -> None:
        # What waits for it, the batch to Redis above all, has its turn first.
        asyncio.get_running_loop().call_soon(self._turn_ends)

    def _turn_ends(self) -> None:
        now, worked = time.monotonic(), time.thread_time()
        elapsed = max(now - self._turn_began, 1e-6)
        busy = (worked - self._worked) / elapsed
        rate = self._took / elapsed
        if rate * LONGEST >= FEW and busy < AT_EASE:
            self.rests += 1
            time.sleep(min(LONGEST, ENOUGH / rate))
        self._took = 0
        # The rest belongs to the next turn, the first half of which it is.
        self._turn_began, self._worked = now, worked

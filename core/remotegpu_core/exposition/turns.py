"""Long work on the event loop, in slices that nobody notices."""

import asyncio
import time
from typing import Final

#: Seconds that may pass before others get their turn.
_SLICE: Final = 0.002


class Turns:
    """Call `take` between small pieces of work."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + _SLICE

    async def take(self) -> None:
        """Let others run when this slice is used up."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + _SLICE

"""Waiting for what happens soon, no longer than it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

#: Seconds. Long enough for a loaded machine; nothing that works waits for it.
PATIENCE = 15.0


async def eventually(ask: Callable[[], Awaitable[object]], *, patience: float = PATIENCE) -> None:
    """Like `until`, for a question whose answer has to be waited for."""
    deadline = time.monotonic() + patience
    while not await ask():
        assert time.monotonic() < deadline, f"not within {patience:.0f} s"
        await asyncio.sleep(0.005)


async def until(happened: Callable[[], object], *, patience: float = PATIENCE) -> None:
    """Return as soon as `happened` is true; fail when it is not within `patience` seconds."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, f"not within {patience:.0f} s"
        await asyncio.sleep(0.005)

"""Duties that must not end because one round of them failed."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Call `work` again and again until cancelled; what it raises is logged, a second apart.

    `work` waits by itself. For what may be expected to fail, such as a database that is away, it
    has handlers of its own: what ends up here is a bug, and comes with its traceback.
    """
    while True:
        try:
            await work()
        except Exception:
            log.exception("duty.failed", duty=name)
            await asyncio.sleep(1)


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it is over."""
    if task is None:
        return
    task.cancel()
    await asyncio.wait([task])

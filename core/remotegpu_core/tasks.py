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
    """Cancel a task and wait until it is over.

    More than once if need be: on Python 3.11 `asyncio.wait_for`, which libraries use, may swallow a
    cancellation that comes together with what it waits for.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)

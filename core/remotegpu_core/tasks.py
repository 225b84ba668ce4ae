"""Duties that must not end because one round of them failed."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from remotegpu_core.database.failures import DatabaseUnavailable

log = structlog.get_logger()


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Call `work` again and again until cancelled; what it raises is logged, a second apart.

    `work` waits by itself. A database that is away, or takes no changes, is told in one line.
    For anything else that may be expected to fail `work` has handlers of its own: what ends up
    here is a bug, and comes with its traceback.
    """
    while True:
        try:
            await work()
        except DatabaseUnavailable as error:
            log.warning("duty.database_unavailable", duty=name, error=str(error))
            await asyncio.sleep(1)
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

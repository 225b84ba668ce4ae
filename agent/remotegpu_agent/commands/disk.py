"""Where everything that waits for a disk is done, so that a slow one stops no heartbeat."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class DiskThread:
    """One thread: what is asked first is done first, and nothing is done at the same time.

    Whoever stops waiting does not stop the work: what is asked after that still comes after it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "disk")

    async def __call__(
        self,
        work: Callable[Parameters, Result],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(work, *arguments, **named))

    def close(self) -> None:
        """Take no more work; a disk that hangs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)

"""The agent's side of the NVML worker: starts it, asks it, and kills it when it hangs."""

import asyncio
import contextlib
import os
import sys
from typing import Final

import msgspec
import structlog

from remotegpu_agent.sources.nvml_wire import (
    LENGTH_BYTES,
    MAX_FRAME,
    Reply,
    Request,
    decode_reply,
    frame,
)
from remotegpu_protocol.grammar import clean_text

_log = structlog.get_logger("remotegpu_agent.nvml")

#: Seconds that a worker has to end by itself, and then to die of SIGKILL. A process that sleeps
#: uninterruptibly in the driver does neither.
_GRACE: Final = 0.3
_DEATH: Final = 0.5

#: Lines of a worker's standard error that are passed on; a driver may be talkative.
_MAX_LINES: Final = 50


class WorkerFailed(Exception):
    """The worker did not answer; its message says why."""


class WorkerTimedOut(WorkerFailed):
    """It hangs in the driver. It has been killed."""


class NvmlProcess:
    """One worker at a time. Requests wait for one another."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._stderr: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        #: A killed worker that has not died yet.
        self._undead: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    async def ask(self, request: Request, *, limit: float, patience: float | None = None) -> Reply:
        """The worker's answer, after starting a worker where none runs.

        `limit` is for the answer, in seconds; `patience` for earlier requests to be over.

        Raises:
            TimeoutError: earlier requests were not over; nothing was asked.
            WorkerFailed: no worker could be started, it died, or it did not answer in time.
                Whatever is left of it has been killed.
        """
        async with asyncio.timeout(patience):
            await self._turn.acquire()
        try:
            return await self._ask(request, limit)
        except BaseException:
            # Cancelled or failed between question and answer: the stream is of no use any more.
            await self._kill()
            raise
        finally:
            self._turn.release()

    @property
    def undead(self) -> bool:
        """Whether a worker that was killed has not died: it sleeps in the kernel."""
        return self._undead is not None and self._undead.returncode is None

    async def retire(self) -> None:
        """End the worker once it has answered what it was asked until now."""
        async with self._turn:
            await self._kill()

    async def stop(self) -> None:
        """End the worker; returns within about a second whatever it does."""
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await process.wait()
        await self._kill()

    async def _ask(self, request: Request, limit: float) -> Reply:
        try:
            async with asyncio.timeout(limit):
                process = await self._started()
                if process.stdin is None or process.stdout is None:
                    raise WorkerFailed("The worker has no pipes.")
                process.stdin.write(frame(request))
                await process.stdin.drain()
                length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
                if length > MAX_FRAME:
                    raise WorkerFailed(f"The worker announced an answer of {length} bytes.")
                return decode_reply(await process.stdout.readexactly(length))
        except TimeoutError:
            raise WorkerTimedOut(f"The NVIDIA driver did not answer within {limit:g} s.") from None
        except msgspec.MsgspecError as error:
            raise WorkerFailed(f"The worker's answer makes no sense: {error}.") from None
        except (asyncio.IncompleteReadError, OSError):
            raise WorkerFailed("The worker that reads the NVIDIA driver died.") from None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._process is not None:
            await self._kill()
        if self._undead is not None and self.undead:
            # Starting more of them would fill the host with processes that cannot be killed.
            raise WorkerFailed(
                f"Process {self._undead.pid} hangs in the NVIDIA driver and cannot be killed; "
                "this usually takes a reboot."
            )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # No module from the current directory.
            "-P",
            "-m",
            "remotegpu_agent.sources.nvml_worker",
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        self._process = process
        self._stderr = asyncio.create_task(_pass_on(process), name="nvml-stderr")
        _log.debug("nvml worker started", pid=process.pid)
        return process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        try:
            async with asyncio.timeout(_DEATH):
                await process.wait()
        except TimeoutError:
            self._undead = process
        if self._stderr is not None:
            if self._undead is process:
                self._stderr.cancel()
            await asyncio.gather(self._stderr, return_exceptions=True)
            self._stderr = None


async def _pass_on(process: asyncio.subprocess.Process) -> None:
    if process.stderr is None:
        return
    for lines in range(1_000_000_000):
        try:
            line = await process.stderr.readline()
        except ValueError:
            # Longer than the reader's buffer, which drops it.
            continue
        if not line:
            return
        if lines < _MAX_LINES:
            _log.warning("nvml worker", said=clean_text(line, 500))

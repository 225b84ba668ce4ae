"""One command while it is done."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from msgspec import Struct

from remotegpu_agent.commands.handler import (
    UNKNOWN,
    CommandFailed,
    Done,
    Handler,
    LookedUp,
    NotDone,
)
from remotegpu_agent.commands.records import Outcome, Progress
from remotegpu_protocol.commands import Command, EventState
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import pack_result, read_arguments
from remotegpu_protocol.limits import PROGRESS_INTERVAL

_log = structlog.get_logger("remotegpu_agent")

_MAX_MESSAGE: Final = 2000
_MAX_STEP: Final = 255


class Execution:
    """Runs a handler, and turns whatever it does into the command's end."""

    def __init__(
        self,
        command: Command,
        handler: Handler[Any] | None,
        report: Callable[[Progress], Awaitable[None]],
    ) -> None:
        self._command = command
        self._handler = handler
        self._report = report
        self._running: asyncio.Task[Struct] | None = None
        self._stopped = False
        self._reported_at = float("-inf")
        self._step: str | None = None

    def stop(self) -> None:
        """The command is not wanted any more; one that cannot be stopped goes on to its end."""
        self._stopped = True
        if self._running is not None and self._handler is not None and self._handler.stoppable:
            self._running.cancel()

    async def objection(self) -> Outcome | None:
        """Why its handler refuses it, before anything is done."""
        if self._handler is None:
            return None
        arguments = read_arguments(self._command.kind, self._command.arguments)
        error = await self._handler.objection(arguments)
        return None if error is None else _ended(EventState.REFUSED, error.code, error.message)

    async def run(self) -> Outcome:
        """Do it; cancelling this task leaves it undone or half done, as a crash would."""
        if self._handler is None:
            raise TypeError(f"{self._command.kind} was admitted without a handler.")
        if self._stopped and self._handler.stoppable:
            return self.nothing_done()
        arguments = read_arguments(self._command.kind, self._command.arguments)
        self._running = asyncio.create_task(
            self._handler.run(arguments, self._tell), name=f"command {self._command.id}"
        )
        try:
            result = await self._running
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                # The agent stops. The handler is told, and what came of it is looked up later.
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)
                raise
            return await self.look_up() or self.nothing_done()
        except CommandFailed as error:
            return _failed(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and told
            _log.exception("internal error", during=f"command {self._command.kind}")
            return self.internal_error(error)
        return self._succeeded(self._handler, result)

    async def look_up(self) -> Outcome | None:
        """What came of a run that nobody saw the end of; None when nothing did."""
        found = await self._found()
        match found:
            case NotDone():
                return None
            case Done(result) if self._handler is not None:
                return self._succeeded(self._handler, result)
            case _:
                return Outcome(
                    EventState.INDETERMINATE,
                    error_code="INDETERMINATE",
                    error_message=(
                        "The agent ended while this was being done, and whether it was done cannot "
                        "be looked up. It is not done again; look at the host."
                    ),
                )

    async def _found(self) -> LookedUp:
        if self._handler is None:
            return UNKNOWN
        try:
            arguments = read_arguments(self._command.kind, self._command.arguments)
            return await self._handler.look_up(arguments)
        except CommandFailed as error:
            _log.warning("command not looked up", kind=self._command.kind, reason=error.message)
            return UNKNOWN
        except Exception:  # noqa: BLE001 - logged; who cannot look it up cannot tell
            _log.exception("internal error", during=f"looking {self._command.kind} up")
            return UNKNOWN

    def nothing_done(self) -> Outcome:
        return Outcome(
            EventState.CANCELLED,
            error_code="CANCELLED",
            error_message="It was cancelled, and nothing of it was done or is left.",
        )

    @staticmethod
    def internal_error(error: Exception) -> Outcome:
        return _failed(
            "INTERNAL",
            f"The agent failed in a way that nobody foresaw ({type(error).__name__}); its log has "
            "the details.",
        )

    def _succeeded(self, handler: Handler[Any], result: Struct) -> Outcome:
        return Outcome(EventState.SUCCEEDED, result=pack_result(handler.kind, result))

    async def _tell(self, progress: Progress) -> None:
        now = time.monotonic()
        # A new step is always told; more of the same not more often than anybody can follow.
        if progress.step == self._step and now < self._reported_at + PROGRESS_INTERVAL:
            return
        self._step = progress.step
        self._reported_at = now
        part = None if progress.part is None else min(max(progress.part, 0.0), 1.0)
        await self._report(
            Progress(
                None if progress.step is None else clean_text(progress.step, _MAX_STEP),
                part,
                None if progress.detail is None else clean_text(progress.detail, _MAX_MESSAGE),
            )
        )


def _failed(code: str, message: str) -> Outcome:
    return _ended(EventState.FAILED, code, message)


def _ended(state: EventState, code: str, message: str) -> Outcome:
    return Outcome(
        state,
        error_code=clean_text(code),
        error_message=clean_text(message, _MAX_MESSAGE),
    )

"""All steps in their order, each carried out and proven, and then all looked at once more."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from remotegpu_agent.commands.handler import Report
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport

Outcome = TypeVar("Outcome")

#: Told before and after each removal of what was found, so that tests can kill the agent there.
Witness = Callable[[str], None]


def nobody(_moment: str) -> None:
    """The witness of an agent that is not under test."""


_log = structlog.get_logger("remotegpu_agent")

#: Times that a step is tried.
ATTEMPTS: Final = 3
#: Times that all is looked at once more: a job that began late may have left something again.
ROUNDS: Final = 3
_MAX_DETAIL: Final = 1000
#: What a step's name says of the second look.
_AGAIN: Final = "looking again"


@dataclass
class _Result:
    step: Step
    #: Most that was found at once, in each time that something was found.
    found: int = 0
    left: int = 0
    detail: str | None = None
    verified: bool = False
    #: Whether the last attempt took too long.
    hung: bool = False

    def item(self) -> CleanedSurface:
        return CleanedSurface(
            self.step.surface,
            self.step.action,
            found=self.found,
            removed=self.found - self.left,
            verified=self.verified,
            detail=self.detail,
        )


class Engine:
    """Cleans one allocation. `pause`: seconds before a step is tried again, doubled each time.
    `make_room`: called before each removal, since programs that change the host's tables need some on
    a disk that the user may have filled."""

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        pause: float = 0.5,
        make_room: Callable[[], None] = lambda: None,
        witness: Witness = nobody,
    ) -> None:
        self._results = [_Result(step) for step in steps]
        self._pause = pause
        self._make_room = make_room
        self._witness = witness

    async def run(self, report: Report) -> CleaningReport:
        """Whatever fails is in the report; nothing is raised."""
        for number, result in enumerate(self._results):
            part = number / (len(self._results) + 1)
            await report(Progress(f"cleaning: {result.step.surface}", part))
            await self._clean(result)
        if not self._clean_so_far:
            await report(Progress(_AGAIN, len(self._results) / (len(self._results) + 1)))
            await self._retry()
        if self._clean_so_far:
            await report(Progress(_AGAIN, len(self._results) / (len(self._results) + 1)))
            await self._look_again()
        items = [result.item() for result in self._results]
        return CleaningReport(performed=True, verified=self._clean_so_far, items=items)

    @property
    def _clean_so_far(self) -> bool:
        return all(result.verified for result in self._results)

    async def _retry(self) -> None:
        """What failed, once more: a later step may have ended what stood in the way, such as
        processes that left no room for a program."""
        for result in self._results:
            if not result.verified:
                await self._clean(result, attempts=1)

    async def _look_again(self) -> None:
        """Until one look at everything finds nothing; what is there again is removed again."""
        back: list[_Result] = []
        for _ in range(ROUNDS):
            back = [result for result in self._results if await self._is_back(result)]
            if not back:
                return
            for result in back:
                await self._clean(result)
            if not self._clean_so_far:
                return
        for result in back:
            result.verified, result.detail = False, "It comes back after each removal."

    async def _is_back(self, result: _Result) -> bool:
        if result.step.absence() is not None:
            return False
        there = await self._look(result)
        return there is None or bool(there)

    async def _clean(self, result: _Result, *, attempts: int = ATTEMPTS) -> None:
        """Remove and then look, even if the first look found nothing: what hides from the first look is removed
        all the same, and only a look after a removal proves anything."""
        step = result.step
        missing = self._missing(result)
        if missing is not None:
            result.verified, result.detail = False, missing
            return
        absence = step.absence()
        if absence is not None:
            result.verified, result.detail = True, clean_text(absence, _MAX_DETAIL)
            return
        result.detail = None
        pause = self._pause
        before = result.found - result.left
        there = await self._look(result)
        most = there.count if there is not None else 0
        for attempt in range(attempts):
            if attempt > 0:
                await asyncio.sleep(pause)
                pause *= 2
            await self._remove(result, there)
            there = await self._look(result)
            if there is not None:
                most = max(most, there.count)
                result.found, result.left = before + most, there.count
                if not there:
                    note = step.note()
                    result.verified = True
                    result.detail = None if note is None else clean_text(note, _MAX_DETAIL)
                    return
            if there is None and result.hung:
                # What does not answer is asked again after all other steps, not at once.
                break
        result.verified = False
        if there:
            result.detail = _and_left(result.detail, there)
        _log.error("not clean", surface=step.surface, reason=result.detail)

    def _missing(self, result: _Result) -> str | None:
        """Why the step is not tried; None when it is."""
        before = self._results[: self._results.index(result)]
        for other in before:
            if other.step.needed_by_all and not other.verified:
                return f"Not tried without: {other.step.surface}."
        if result.step.only_when_clean and not all(other.verified for other in before):
            return "Kept until all the rest is proven clean."
        return None

    async def _look(self, result: _Result) -> Findings | None:
        """What is there, or None where it cannot be told; the reason is the result's detail."""
        return await self._attempt(result, result.step.look)

    async def _remove(self, result: _Result, there: Findings | None) -> None:
        if there:
            self._witness(f"{result.step.surface}: found")
        await asyncio.to_thread(self._make_room)
        await self._attempt(result, result.step.remove)
        if there:
            self._witness(f"{result.step.surface}: removed")

    async def _attempt(
        self, result: _Result, part: Callable[[Deadline], Awaitable[Outcome]]
    ) -> Outcome | None:
        """What this part of the step returns, or None where it fails."""
        step = result.step
        deadline = Deadline(step.timeout)
        result.hung = False
        try:
            async with asyncio.timeout(step.timeout):
                return await part(deadline)
        except Obstacle as error:
            result.detail = clean_text(error.message, _MAX_DETAIL)
        except TimeoutError:
            result.hung = True
            result.detail = f"It took longer than {step.timeout:g} s."
        except OSError as error:
            result.detail = clean_text(f"{error.strerror or error}", _MAX_DETAIL)
        except Exception as error:  # noqa: BLE001 - logged; the other places are cleaned all the same
            _log.exception("internal error", during=f"cleaning {step.surface}")
            result.detail = (
                f"The agent failed in a way that nobody foresaw ({type(error).__name__})."
            )
        finally:
            # A thread that hangs in a dead file system must not begin to remove hours later.
            deadline.expire()
        return None


def _and_left(reason: str | None, there: Findings) -> str:
    left = f"Left: {there}."
    return left if reason is None else f"{reason.rstrip('.')}. {left}"

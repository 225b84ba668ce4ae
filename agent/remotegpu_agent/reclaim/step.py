"""One step of cleaning: a place, how to look at it, and how to empty it."""

import asyncio
import contextlib
import errno
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_protocol.grammar import clean_text

Result = TypeVar("Result")

#: Names that a report tells; the number of all is told too.
_MAX_NAMES: Final = 5


class Obstacle(Exception):
    """A place that cannot be looked at or emptied; the message says what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Deadline:
    """Asked by work in a thread, which nobody can interrupt."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(self._end - time.monotonic(), 0.0)

    def expire(self) -> None:
        self._end = float("-inf")

    def check(self) -> None:
        """Raises TimeoutError when there is no time left."""
        if time.monotonic() >= self._end:
            raise TimeoutError


@dataclass
class Findings:
    """What is there."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.add_lazily(lambda: name)

    def add_lazily(self, name: Callable[[], str]) -> None:
        """A name that takes time to tell is asked for only when it is kept."""
        self.count += 1
        if len(self.names) < _MAX_NAMES:
            self.names.append(clean_text(name(), 100))

    def add_all(self, others: "Findings") -> None:
        for name in others.names:
            self.add(name)
        self.count += others.count - len(others.names)

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")


class Step(ABC):
    """Both halves may be called at any time and any number of times.

    `look` is also the proof: nothing is clean before it has found nothing after a removal. `remove`
    is called whether or not `look` found anything, and does not rely on what that saw.
    """

    surface: ClassVar[str]
    action: ClassVar[str] = "removed"
    #: Seconds for looking and removing once.
    timeout: ClassVar[float] = 60.0
    #: Programs without which nothing is removed.
    tools: ClassVar[tuple[str, ...]] = ()
    #: Only after everything before it is proven clean.
    only_when_clean: ClassVar[bool] = False
    #: Without its proof nothing else is tried.
    needed_by_all: ClassVar[bool] = False

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy

    def absence(self) -> str | None:
        """Why this host has no such place at all; None when it has."""
        return None

    def note(self) -> str | None:
        """What whoever reads the proof should know besides."""
        return None

    @abstractmethod
    async def look(self, deadline: Deadline) -> Findings:
        """What of the allocation's is there.

        Raises:
            Obstacle, OSError, TimeoutError: it cannot be told.
        """

    @abstractmethod
    async def remove(self, deadline: Deadline) -> None:
        """Empty it; where nothing is there, it changes nothing. Raises like `look`."""


class BlockingStep(Step):
    """A step that waits for disks and programs, each time in a thread of its own.

    One that hangs for ever, in a file system that does not answer, holds up nothing else: not the
    agent's other work, which shares a few threads, nor its end.
    """

    async def look(self, deadline: Deadline) -> Findings:
        return await _in_a_thread(self.look_now, deadline)

    async def remove(self, deadline: Deadline) -> None:
        await _in_a_thread(self.remove_now, deadline)

    @abstractmethod
    def look_now(self, deadline: Deadline) -> Findings: ...

    @abstractmethod
    def remove_now(self, deadline: Deadline) -> None: ...


async def _in_a_thread(work: Callable[[Deadline], Result], deadline: Deadline) -> Result:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = work(deadline)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    def tell(set_it: Callable[[Any], None], value: object) -> None:
        def unless_given_up() -> None:
            if not done.done():
                set_it(value)

        # Without the loop, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(unless_given_up)

    thread = threading.Thread(target=run, name=work.__qualname__, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "This host has no room for another thread") from None
    return await done

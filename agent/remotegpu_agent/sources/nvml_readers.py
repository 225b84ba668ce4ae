"""Reading many cards so that a call that hangs keeps only its own card waiting. Runs in the worker."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: Seconds at one card after which another thread goes on with the rest.
STALL: Final = 0.1

#: Seconds that all cards together may take: less than usually lies between two samples.
LIMIT: Final = 0.8

#: Seconds for which a reading that came too late is still good for the next time.
_FRESH: Final = 3.0

Jobs = Mapping[int, Callable[[], T]]


class Readers(Generic[T]):
    """Threads that read cards one after the other; cards go by their indices.

    Usually one thread reads them all. When it stalls it is left alone with its card, which nobody
    touches until it comes back, and another thread takes over the rest.
    """

    def __init__(self) -> None:
        # Guards everything below and every round.
        self._finished = threading.Condition()
        self._busy: set[int] = set()
        self._late: dict[int, tuple[float, T]] = {}
        self._failure: Exception | None = None

    @property
    def any_hung(self) -> bool:
        with self._finished:
            return bool(self._busy)

    def read(self, jobs: Jobs[T], *, limit: float = LIMIT) -> dict[int, T]:
        """Do the jobs, in `limit` seconds at most; without those that a thread still waits for,
        and those that had no turn because of them. Raises what a job raised."""
        now = time.monotonic()
        end = now + limit
        with self._finished:
            ready = {
                index: late
                for index, (since, late) in self._late.items()
                if index in jobs and now - since <= _FRESH
            }
            self._late.clear()
            todo = [index for index in jobs if index not in self._busy and index not in ready]
            current = _Round({index: jobs[index] for index in todo}, ready)
            while current.unfinished and now < end:
                if current.todo and now >= current.since + STALL:
                    current.reader += 1
                    current.since = now
                    # Daemons, since the process has to end whatever they wait for.
                    arguments = (current, current.reader)
                    threading.Thread(target=self._work, args=arguments, daemon=True).start()
                wake = min(end, current.since + STALL) if current.todo else end
                self._finished.wait(wake - now)
                now = time.monotonic()
            current.over = True
            if self._failure is not None:
                raise self._failure
            return current.read

    def _work(self, current: "_Round[T]", reader: int) -> None:
        while True:
            with self._finished:
                if current.over or current.reader != reader or not current.todo:
                    return
                index, job = current.todo.popleft()
                current.since = began = time.monotonic()
                current.reading.add(index)
                self._busy.add(index)
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - raised in the thread that serves requests
                with self._finished:
                    self._failure = error
                return
            with self._finished:
                self._busy.discard(index)
                current.reading.discard(index)
                if current.over:
                    self._late[index] = (began, result)
                else:
                    current.read[index] = result
                if not current.unfinished:
                    self._finished.notify()


class _Round(Generic[T]):
    """Cards that are to be read, are being read, and were read, in one call."""

    def __init__(self, jobs: Jobs[T], read: dict[int, T]) -> None:
        self.todo = deque(jobs.items())
        self.reading: set[int] = set()
        self.read = read
        #: Of the readers so far, the one that takes the next card, and since when it has its own.
        self.reader = 0
        self.since = float("-inf")
        self.over = False

    @property
    def unfinished(self) -> bool:
        return bool(self.todo or self.reading)

"""Which processes live and as whom, as the kernel tells (proc_pid_status(5)).

A process is judged by its threads. Its leader may have ended (state Z) while other threads go on,
and each thread may have user ids of its own.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines

_PROC: Final = Path("/proc")
_ENDED: Final = frozenset({"Z", "X"})


@dataclass(frozen=True, slots=True)
class _Status:
    """Of one thread; `threads` is how many its process has."""

    ended: bool
    threads: int
    user_ids: frozenset[int]


def process_ids() -> Iterator[int]:
    """All that are listed, ended ones included."""
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are what is asked for
        if name.isdecimal():
            yield int(name)


def user_ids(pid: int) -> frozenset[int]:
    """Real, effective, saved and file system user ids of all threads of a process; none when all
    threads have ended."""
    leader = _status(_PROC / str(pid))
    if leader is None:
        return frozenset()
    others = _others(pid) if leader.threads > 1 else []
    # Threads that end while they are read may have left others behind.
    ended = all(thread.ended for thread in others) if others else leader.threads <= 1
    if leader.ended and ended:
        return frozenset()
    return leader.user_ids.union(*(thread.user_ids for thread in others))


def send_signal(pid: int, number: signal.Signals, meant: Callable[[int], bool]) -> None:
    """Send it to the process that has this number, when `meant` says that it is the right one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor stays with one process; its number may belong to another one by now.
        if meant(pid):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _others(pid: int) -> list[_Status]:
    """Its threads without the leader."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            status = _status(thread) if thread.name != str(pid) else None
            if status is not None:
                found.append(status)
    return found


def _status(thread: Path) -> _Status | None:
    """None when the thread is gone."""
    try:
        lines = read_lines(thread / "status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    return _Status(
        fields["State"].strip()[:1] in _ENDED,
        int(fields.get("Threads", "0")),
        frozenset(int(number) for number in fields["Uid"].split()),
    )

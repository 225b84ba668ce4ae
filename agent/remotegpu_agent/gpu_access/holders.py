"""Processes that have a GPU's device file open, or its memory mapped."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.process_table import process_ids

_PROC: Final = Path("/proc")


def holders(device: Path, asked: Callable[[int], bool]) -> Iterator[int]:
    """Of the processes that `asked` says yes to, those that hold it. Each thread is looked at: those of
    a process whose main thread has ended still have what it had open.

    Raises:
        OSError: a process cannot be looked at.
    """
    for pid in filter(asked, process_ids()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if any(_holds(thread, str(device)) for thread in (_PROC / str(pid) / "task").iterdir()):
                yield pid


def _holds(thread: Path, device: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in (thread / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(descriptor.readlink()) == device:
                    return True
    end = f" {device}\n".encode()
    with (
        contextlib.suppress(FileNotFoundError, ProcessLookupError),
        (thread / "maps").open("rb") as maps,
    ):
        return any(line.endswith(end) for line in maps)
    return False

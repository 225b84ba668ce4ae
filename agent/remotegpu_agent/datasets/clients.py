"""Programs of root that serve mounts, found again by what they were started with."""

import os
import signal
import time
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.process_table import process_ids, send_signal, user_ids

_PROC: Final = Path("/proc")
#: Seconds for one that has nothing to serve any more, to write down what it still has; and for
#: one that was told to end.
_ENDS_ITSELF: Final = 2.0
_ENDS: Final = 3.0
_POLL: Final = 0.02


def clients_of(program: str, place: Path) -> list[int]:
    """Process ids of those that were started as `program` for `place`."""
    return [pid for pid, arguments in _clients(program) if str(place) in arguments]


def clients_below(program: str, directory: Path) -> list[str]:
    """Places below `directory` that such programs serve."""
    return [
        argument
        for _, arguments in _clients(program)
        for argument in arguments
        if argument.startswith(f"{directory}/")
    ]


def end_clients(program: str, place: Path) -> None:
    """Have none left. Raises CommandFailed: one cannot be ended."""
    for number, seconds in ((None, _ENDS_ITSELF), (signal.SIGTERM, _ENDS), (signal.SIGKILL, _ENDS)):
        for pid in clients_of(program, place):
            if number is not None:
                send_signal(pid, number, lambda one: one in clients_of(program, place))
        deadline = time.monotonic() + seconds
        while clients_of(program, place):
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        else:
            return
    raise CommandFailed("CLIENT_LEFT", f"{program} for {place} cannot be ended. Look at the host.")


def _clients(program: str) -> list[tuple[int, list[str]]]:
    found = []
    for pid in process_ids():
        try:
            if user_ids(pid) != {0}:
                continue
            arguments = os.fsdecode((_PROC / str(pid) / "cmdline").read_bytes()).split("\0")
        except OSError:
            continue
        if os.path.basename(arguments[0]) == program:  # noqa: PTH119 - a name, and no file
            found.append((pid, arguments))
    return found

"""Programs of root that serve mounts, found again by what they were started with."""

import os
import signal
import time
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.reclaim.surfaces.processes import user_ids

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
                _send(program, place, pid, number)
        deadline = time.monotonic() + seconds
        while clients_of(program, place):
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        else:
            return
    raise CommandFailed("CLIENT_LEFT", f"{program} for {place} cannot be ended. Look at the host.")


def _send(program: str, place: Path, pid: int, number: signal.Signals) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor is of one process for ever; the number may have got another meanwhile.
        if pid in clients_of(program, place):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _clients(program: str) -> list[tuple[int, list[str]]]:
    found = []
    for path in _PROC.iterdir():
        if not path.name.isdecimal():
            continue
        try:
            if user_ids(int(path.name)) != {0}:
                continue
            arguments = os.fsdecode((path / "cmdline").read_bytes()).split("\0")
        except OSError:
            continue
        if os.path.basename(arguments[0]) == program:  # noqa: PTH119 - a name, and no file
            found.append((int(path.name), arguments))
    return found

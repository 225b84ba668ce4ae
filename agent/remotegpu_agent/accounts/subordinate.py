"""Tables of subordinate ids (subuid(5), subgid(5)): who has which ranges of further ids."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.durable import write_file
from remotegpu_agent.lines import read_lines

SUBUID: Final = Path("/etc/subuid")
SUBGID: Final = Path("/etc/subgid")
_SETTINGS: Final = Path("/etc/login.defs")

#: As shadow's programs have them where login.defs says nothing.
_DEFAULTS: Final = {
    f"SUB_{kind}_{name}": value
    for kind in ("UID", "GID")
    for name, value in (("MIN", 100_000), ("MAX", 600_100_000), ("COUNT", 65_536))
}
#: Seconds that a program of shadow's which changes the table is waited for.
_PATIENCE: Final = 15.0
_POLL: Final = 0.02


@dataclass(frozen=True, slots=True)
class Range:
    """`owner` is a name of an account, or its user id in digits."""

    owner: str
    first: int
    count: int

    def overlaps(self, ids: range) -> bool:
        return self.first < ids.stop and ids.start < self.first + self.count


def read_ranges(table: Path = SUBUID) -> list[Range]:
    """None where the host has no such table; what is no range is left out."""
    try:
        lines = read_lines(table)
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        owner, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if first.isdecimal() and count.isdecimal():
            found.append(Range(owner, int(first), int(count)))
    return found


def subordinate_ids(account: str, uid: int) -> list[tuple[int, int]]:
    """The account's ranges of further user ids; none where the host has no table of them."""
    return [(one.first, one.count) for one in read_ranges() if one.owner in {account, str(uid)}]


def slots() -> list[range]:
    """The ranges that this host's settings let accounts have, in their order, each as user ids and as
    group ids; none on a host whose accounts have none."""
    if not (SUBUID.exists() and SUBGID.exists()):
        return []
    settings = _settings()
    count = settings["SUB_UID_COUNT"]
    if count <= 0 or settings["SUB_GID_COUNT"] != count:
        return []
    first = max(settings["SUB_UID_MIN"], settings["SUB_GID_MIN"])
    last = min(settings["SUB_UID_MAX"], settings["SUB_GID_MAX"])
    starts = range(first, last - count + 2, count)
    return [range(start, start + count) for start in starts]


def remove_owner(table: Path, owner: str) -> None:
    """Remove the lines of an owner, as shadow's programs change the table.

    Raises:
        OSError: it cannot be written to.
        TimeoutError: another program has been changing it for too long.
    """
    if all(one.owner != owner for one in read_ranges(table)):
        return
    with _locked(table):
        mode = stat.S_IMODE(table.stat().st_mode)
        kept = [line for line in read_lines(table) if line.partition(":")[0] != owner]
        content = os.fsencode("".join(f"{line}\n" for line in kept))
        write_file(table, content, mode=mode)
        table.chmod(mode)


def _settings() -> dict[str, int]:
    found = dict(_DEFAULTS)
    with contextlib.suppress(FileNotFoundError):
        for line in read_lines(_SETTINGS):
            words = line.split()
            if len(words) >= 2 and words[0] in found and words[1].isdecimal():
                found[words[0]] = int(words[1])
    return found


@contextlib.contextmanager
def _locked(table: Path) -> Iterator[None]:
    """The lock of shadow's programs: a file beside the table that holds a process id."""
    lock = Path(f"{table}.lock")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            break
        except FileExistsError:
            if _is_stale(lock):
                lock.unlink(missing_ok=True)
            elif time.monotonic() >= deadline:
                raise TimeoutError(f"{lock} is held by another program") from None
            else:
                time.sleep(_POLL)
    try:
        os.write(descriptor, f"{os.getpid()}\0".encode())
        yield
    finally:
        os.close(descriptor)
        lock.unlink(missing_ok=True)


def _is_stale(lock: Path) -> bool:
    """Whether the program that made it has ended."""
    try:
        holder = lock.read_text().strip("\0\n ")
    except OSError:
        return False
    return holder.isdecimal() and not Path("/proc", holder).exists()

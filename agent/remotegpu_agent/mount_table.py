"""What is mounted, as the kernel tells (proc_pid_mountinfo(5))."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines

_TABLE: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_OWN: Final = Path("/proc/self/ns/mnt")
_HOSTS: Final = Path("/proc/1/ns/mnt")


@dataclass(frozen=True, slots=True)
class Mounted:
    """`device` is MAJOR:MINOR, `kind` the file system's; `flags` are those of this place, such as
    `ro` and `nosuid`, `options` the file system's own."""

    point: Path
    device: str
    kind: str
    flags: frozenset[str]
    options: tuple[str, ...]

    @property
    def user_id(self) -> int | None:
        """Who mounted it, of what users may mount (FUSE). No user can choose it."""
        if self.kind.partition(".")[0] in {"fuse", "fuseblk"}:
            for option in self.options:
                name, _, value = option.partition("=")
                if name == "user_id" and value.isdecimal():
                    return int(value)
        return None


def read_table() -> list[Mounted]:
    """In the order of mounting: of several at one place the last one is seen."""
    found = []
    for line in read_lines(_TABLE):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        kind, _source, options = after.split(" ", 2)
        found.append(
            Mounted(
                Path(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4])),
                fields[2],
                kind,
                frozenset(fields[5].split(",")),
                tuple(options.split(",")),
            )
        )
    return found


def mounted_at(place: Path) -> Mounted | None:
    return next((one for one in reversed(read_table()) if one.point == place), None)


def mounted_below(directory: Path) -> list[Mounted]:
    return [one for one in read_table() if directory in one.point.parents]


def is_hosts_view() -> bool:
    """Whether what this process mounts is seen by the host's other processes; False where it may not
    even ask."""
    try:
        return _OWN.stat().st_ino == _HOSTS.stat().st_ino
    except OSError:
        return False

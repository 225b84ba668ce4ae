"""What programs of the user have said, which systemd-journald keeps apart for the user to read."""

import re
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import find_tool, run_tool
from remotegpu_protocol.surfaces import Surface

#: Each with a directory for each machine id.
_JOURNALS: Final = (Path("/var/log/journal"), Path("/run/log/journal"))

_ACTIVE: Final = re.compile(r"user-(\d+)\.journal")
#: Those closed in order, and those that were found damaged.
_ARCHIVED: Final = re.compile(r"user-(\d+)@.*\.journal~?")

_ENTRIES: Final = re.compile(r"^Entry objects: (\d+)$", re.MULTILINE | re.IGNORECASE)


class Journals(BlockingStep):
    """The next one with the user id may read them. What journald has open is begun anew, since it
    would go on writing to a file that is removed; an empty one stays."""

    surface = Surface.JOURNAL

    def absence(self) -> str | None:
        if any(directory.is_dir() for directory in _JOURNALS):
            return None
        return "This host keeps no journal."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for path in self._archived():
            findings.add(str(path))
        for path in self._active():
            if _has_entries(path, deadline):
                findings.add(str(path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        if any(_has_entries(path, deadline) for path in self._active()):
            run_tool("journalctl", "--rotate", deadline=deadline)
        for path in self._archived():
            path.unlink(missing_ok=True)

    def _active(self) -> list[Path]:
        return self._files(_ACTIVE)

    def _archived(self) -> list[Path]:
        return self._files(_ARCHIVED)

    def _files(self, kind: "re.Pattern[str]") -> list[Path]:
        return [
            path
            for directory in _JOURNALS
            for path in directory.glob("*/user-*")
            if (name := kind.fullmatch(path.name)) and self.tenancy.owns(int(name[1]))
        ]


def _has_entries(path: Path, deadline: Deadline) -> bool:
    if find_tool("journalctl") is None:
        return path.stat().st_size > 0
    # Not the entries themselves, which are as long as the user likes.
    said = run_tool("journalctl", "--header", "--file", str(path), deadline=deadline)
    entries = _ENTRIES.search(said)
    return entries is None or int(entries[1]) > 0

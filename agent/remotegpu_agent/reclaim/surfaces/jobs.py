"""Work that begins later by itself: cron's and at's."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import find_tool, run_tool
from remotegpu_protocol.surfaces import Surface

#: Debian's, and that of Red Hat and SUSE, where the directory also holds Debian's others.
_CRONTABS: Final = (Path("/var/spool/cron/crontabs"), Path("/var/spool/cron"))
#: crontab ends with 1 where there is no table.
_ANY_CODE: Final = tuple(range(256))
_AT: Final = tuple(
    Path(directory)
    for directory in (
        "/var/spool/cron/atjobs",
        "/var/spool/cron/atspool",
        "/var/spool/at",
        "/var/spool/atjobs",
        "/var/spool/atspool",
    )
)


class Cron(BlockingStep):
    surface = Surface.CRON

    def absence(self) -> str | None:
        if any(directory.is_dir() for directory in _CRONTABS):
            return None
        return "This host has no cron."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for table in self._tables():
            findings.add(str(table))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        if find_tool("crontab") is not None:
            # So that cron hears of it; whether it was right shows the second look.
            run_tool(
                "crontab",
                "-u",
                self.tenancy.account.name,
                "-r",
                deadline=deadline,
                accepted=_ANY_CODE,
            )
        for table in self._tables():
            table.unlink(missing_ok=True)

    def _tables(self) -> list[Path]:
        """Named like the account, or, whatever their name, its property."""
        tables: list[Path] = []
        for directory in filter(Path.is_dir, _CRONTABS):
            for path, uid in _files(directory):
                if path.name == self.tenancy.account.name or self.tenancy.owns(uid):
                    tables.append(path)
        return tables


class AtJobs(BlockingStep):
    surface = Surface.AT_JOBS

    def absence(self) -> str | None:
        if any(directory.is_dir() for directory in _AT):
            return None
        return "This host has no at."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for path in self._files():
            findings.add(str(path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        """One after the other: there may be a million."""
        for directory in filter(Path.is_dir, _AT):
            for path, uid in _files(directory):
                if self.tenancy.owns(uid):
                    yield path


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    """What is directly in it and no directory, with its owner."""
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if not entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False).st_uid

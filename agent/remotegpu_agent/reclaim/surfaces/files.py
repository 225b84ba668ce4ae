"""Files outside the home, in the places where everybody may leave some."""

import contextlib
import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_protocol.surfaces import Surface

_MAIL: Final = (Path("/var/mail"), Path("/var/spool/mail"))
_CORES: Final = Path("/var/lib/systemd/coredump")
#: systemd-coredump's names: core.PROGRAM.UID.BOOT.PID.TIME, then how it is packed.
_CORE: Final = re.compile(r"core\..*\.(\d+)\.[0-9a-f]{32}\.\d+\.\d+(\.\w+)?")


class Files(BlockingStep):
    """All that it owns below directories that are open to everybody."""

    timeout = 1800.0

    def __init__(self, tenancy: Tenancy) -> None:
        super().__init__(tenancy)
        self._skipped = 0
        self._handed_over: dict[str, None] = {}

    @abstractmethod
    def roots(self) -> list[Path]:
        """Directories, each once."""

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        self._skipped = 0
        for tree in self._trees(deadline):
            findings.add_all(tree.look())
            self._skipped += tree.skipped
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for tree in self._trees(deadline):
            try:
                tree.remove()
            finally:
                self._handed_over |= dict.fromkeys(tree.handed_over)

    def note(self) -> str | None:
        notes = []
        if self._handed_over:
            names = ", ".join(self._handed_over)
            notes.append(f"Directories that held files of other users became theirs: {names}.")
        if self._skipped:
            notes.append(
                f"{self._skipped} directories of other users could not be looked through: they hold "
                "more than there was time for, or were moved meanwhile."
            )
        return " ".join(notes) or None

    def _trees(self, deadline: Deadline) -> Iterator[Tree]:
        return (Tree(root, self.tenancy.owns, deadline) for root in self.roots())


def _directories(*paths: str) -> list[Path]:
    """Each once, wherever links of the system lead (/var/lock is /run/lock)."""
    return list(dict.fromkeys(path.resolve() for path in map(Path, paths) if path.is_dir()))


class TemporaryFiles(Files):
    surface = Surface.TEMPORARY_FILES

    def roots(self) -> list[Path]:
        # /run and spools also hold what programs make for their users there: screen, at, printers.
        return _directories("/tmp", "/var/tmp", "/run", "/run/lock", "/var/crash", "/var/spool")  # noqa: S108 - to clean


class SharedMemory(Files):
    surface = Surface.SHARED_MEMORY

    def roots(self) -> list[Path]:
        return _directories("/dev/shm")  # noqa: S108 - to clean


class Mail(BlockingStep):
    surface = Surface.MAIL

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for path in self._boxes():
            findings.add(str(path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for path in self._boxes():
            path.unlink()

    def _boxes(self) -> list[Path]:
        directories = dict.fromkeys(path.resolve() for path in _MAIL if path.is_dir())
        boxes = [directory / self.tenancy.account.name for directory in directories]
        return [box for box in boxes if os.path.lexists(box)]


class CoreDumps(BlockingStep):
    """The memory of its programs, which systemd-coredump keeps as root's."""

    surface = Surface.CORE_DUMPS

    def absence(self) -> str | None:
        return None if _CORES.is_dir() else "This host keeps no core dumps."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for path in self._cores():
            findings.add(str(path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for path in self._cores():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _cores(self) -> list[Path]:
        return [
            path
            for path in _CORES.iterdir()
            if (name := _CORE.fullmatch(path.name)) and self.tenancy.owns(int(name[1]))
        ]

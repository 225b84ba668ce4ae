"""Files outside the home, in the places where everybody may leave some."""

import contextlib
import os
import re
from pathlib import Path
from typing import ClassVar, Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_protocol.surfaces import Surface

_MAIL: Final = (Path("/var/mail"), Path("/var/spool/mail"))
_CORES: Final = Path("/var/lib/systemd/coredump")
#: systemd-coredump's names: core.PROGRAM.UID.BOOT.PID.TIME, then how it is packed.
_CORE: Final = re.compile(r"core\..*\.(\d+)\.[0-9a-f]{32}\.\d+\.\d+(\.\w+)?")


class Files(BlockingStep):
    """All that it owns below directories that are open to everybody."""

    roots: ClassVar[tuple[Path, ...]]
    timeout = 300.0

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for root in self._roots():
            there = Tree(root, self.tenancy.owns, deadline).look()
            for name in there.names:
                findings.add(name)
            findings.count += there.count - len(there.names)
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for root in self._roots():
            Tree(root, self.tenancy.owns, deadline).remove()

    def _roots(self) -> list[Path]:
        """Each once, wherever links of the system lead (/var/lock is /run/lock)."""
        return list(dict.fromkeys(root.resolve() for root in self.roots if root.is_dir()))


class TemporaryFiles(Files):
    surface = Surface.TEMPORARY_FILES
    #: /run and spools also hold what programs make for their users there: screen, at, printers.
    roots = tuple(
        map(Path, ("/tmp", "/var/tmp", "/run", "/run/lock", "/var/crash", "/var/spool"))  # noqa: S108 - to clean
    )


class SharedMemory(Files):
    surface = Surface.SHARED_MEMORY
    roots = (Path("/dev/shm"),)  # noqa: S108 - to clean


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

"""What systemd keeps for a user: lingering, the user's own manager with its units, the runtime
directory, what logind remembers."""

import os
import time
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.surfaces.processes import kill_at_once, user_slices
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.reclaim.tools import run_tool
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_protocol.surfaces import Surface

_RUNNING: Final = Path("/run/systemd/system")
_LINGER: Final = Path("/var/lib/systemd/linger")
_RUNTIME: Final = Path("/run/user")
#: A file for each user that logind knows, as sd_uid_get_state(3) reads it.
_KNOWN: Final = Path("/run/systemd/users")
#: Where `systemctl set-property` keeps what it sets.
_CONTROL: Final = (Path("/etc/systemd/system.control"), Path("/run/systemd/system.control"))
_POLL: Final = 0.1
_ANY_CODE: Final = tuple(range(256))


def _systemd_runs() -> bool:
    """As sd_booted(3) tells."""
    return _RUNNING.is_dir()


class Lingering(BlockingStep):
    """Without it, the user's manager would begin again at the next boot."""

    surface = Surface.LINGERING

    def absence(self) -> str | None:
        return None if _LINGER.is_dir() or _systemd_runs() else "This host has no systemd-logind."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        if os.path.lexists(self._file):
            findings.add(str(self._file))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        if _systemd_runs():
            run_tool(
                "loginctl",
                "disable-linger",
                self.tenancy.account.name,
                deadline=deadline,
                accepted=_ANY_CODE,
            )
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return _LINGER / self.tenancy.account.name


class UserUnits(BlockingStep):
    """The user's manager and slice; files of units lie in the home and go with it."""

    surface = Surface.USER_UNITS
    action = "stopped"

    def __init__(self, tenancy: Tenancy) -> None:
        super().__init__(tenancy)
        uid = tenancy.uid
        self._units = (
            f"user@{uid}.service",
            f"user-{uid}.slice",
            f"user-runtime-dir@{uid}.service",
        )
        self._settings = [root / f"user-{uid}.slice.d" for root in _CONTROL]

    def absence(self) -> str | None:
        return None if _systemd_runs() else "systemd does not run on this host."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for unit in self._units:
            state = run_tool(
                "systemctl",
                "show",
                "--property=ActiveState",
                "--value",
                "--",
                unit,
                deadline=deadline,
            ).strip()
            if state not in {"inactive", "failed"}:
                findings.add(f"{unit} ({state})")
        # What `limit_tasks` had systemd keep for the user id.
        for path in self._settings:
            if path.exists():
                findings.add(str(path))
        # A unit that has stopped may have left processes behind (KillMode=).
        for group in user_slices(self.tenancy.uid):
            if _is_populated(group):
                findings.add(str(group))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        # Nobody is asked: units of the user's may have all the time to stop that they want.
        kill_at_once(self.tenancy.uid, deadline)
        for command in (
            ("loginctl", "terminate-user", str(self.tenancy.uid)),
            *(("systemctl", "stop", "--", unit) for unit in self._units),
            ("systemctl", "revert", "--", self._units[1]),
            ("systemctl", "reset-failed", "--", *self._units),
        ):
            run_tool(*command, deadline=deadline, accepted=_ANY_CODE)


def _is_populated(group: Path) -> bool:
    """Whether a process or a thread of one is in it or below it."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError:
        # The group is gone.
        return False


class RuntimeDirectory(BlockingStep):
    surface = Surface.RUNTIME_DIRECTORY

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        if os.path.lexists(self._path):
            findings.add(str(self._path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        if self._path.is_symlink() or not self._path.is_dir():
            self._path.unlink(missing_ok=True)
            return
        Tree(self._path, self.tenancy.owns, deadline, all_in_it=True).remove()
        if self._path.is_mount():
            run_tool("umount", "--no-canonicalize", "--", str(self._path), deadline=deadline)
        self._path.rmdir()

    @property
    def _path(self) -> Path:
        return runtime_directory(self.tenancy.uid)


def runtime_directory(uid: int) -> Path:
    return _RUNTIME / str(uid)


class KnownUser(BlockingStep):
    """Logind keeps a user for some seconds after the last session (UserStopDelaySec), and would
    take whoever gets the user id next for that one."""

    surface = Surface.LOGIND_USER
    action = "forgotten"

    def absence(self) -> str | None:
        return None if _systemd_runs() else "This host has no systemd-logind."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        if self._file.exists():
            findings.add(f"user {self.tenancy.uid}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        while self._file.exists():
            if not deadline.left:
                raise Obstacle(
                    "Logind does not forget the user. UserStopDelaySec in logind.conf has to be a "
                    f"time of less than {self.timeout:.0f} s."
                )
            time.sleep(_POLL)

    @property
    def _file(self) -> Path:
        return _KNOWN / str(self.tenancy.uid)

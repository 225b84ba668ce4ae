"""Sessions and processes, by the user ids of their threads."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.process_table import process_ids, send_signal, user_ids
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import find_tool
from remotegpu_protocol.surfaces import Surface

_PROC: Final = Path("/proc")
#: Where control groups of version 2 are, alone or beside those of version 1.
_GROUPS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
#: Seconds for which what is found again is killed again, before the step is judged.
_GRACE: Final = 2.0
_POLL: Final = 0.02
_NOGROUP: Final = 65534


class Processes(BlockingStep):
    """All that have a thread whose real, effective, saved or file system user id is the
    allocation's."""

    surface = Surface.PROCESSES
    action = "killed"
    timeout = 30.0

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for pid in self._pids():
            deadline.check()
            findings.add(f"{pid} ({_name(pid)})")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        with contextlib.suppress(OSError):
            # Without room for a program, what follows ends processes and makes room.
            kill_at_once(self.tenancy.uid, deadline)
        # What has another user id beside: programs that change it, containers without root.
        patience = Deadline(_GRACE)
        while pids := list(self._pids()):
            # All are stopped before one of them ends, which another one could notice and replace.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    deadline.check()
                    send_signal(pid, number, self._is_ours)
            if not patience.left:
                return
            time.sleep(_POLL)

    def _pids(self) -> Iterator[int]:
        return filter(self._is_ours, process_ids())

    def _is_ours(self, pid: int) -> bool:
        return any(self.tenancy.owns(uid) for uid in user_ids(pid))


def user_slices(uid: int) -> list[Path]:
    """Control groups in which systemd puts what a user starts; none where there are none."""
    name = f"user.slice/user-{uid}.slice"
    return [path for root in _GROUPS if (path := root / name).is_dir()]


def kill_at_once(uid: int, deadline: Deadline) -> None:
    """No process that forks all the time gets away from these two.

    Raises:
        OSError: this host has no room for another process.
        TimeoutError: what is left is not known.
    """
    for group in user_slices(uid):
        # Since Linux 5.14.
        with contextlib.suppress(FileNotFoundError):
            (group / "cgroup.kill").write_text("1")
    kill = find_tool("kill")
    if kill is None:
        return
    try:
        # -1: everything that this user may signal. It reaches nobody else's.
        subprocess.run(  # noqa: S603 - an absolute path and constants
            [kill, "-KILL", "--", "-1"],
            user=uid,
            group=_NOGROUP,
            extra_groups=[],
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=max(deadline.left, 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"

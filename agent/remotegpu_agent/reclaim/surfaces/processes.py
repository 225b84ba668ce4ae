"""Sessions and processes, by user id."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tools import find_tool
from remotegpu_protocol.surfaces import Surface

_PROC: Final = Path("/proc")
#: Where systemd puts all of a user's processes (cgroups, version 2).
_SLICE: Final = "/sys/fs/cgroup/user.slice/user-{uid}.slice/cgroup.kill"
#: Seconds that killed processes get to disappear before they are looked for again.
_GRACE: Final = 2.0
_POLL: Final = 0.02
_NOGROUP: Final = 65534


class Processes(BlockingStep):
    """All whose real, effective, saved or file system user id is the allocation's."""

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
        kill_at_once(self.tenancy.uid, deadline)
        # What has another user id beside: programs that change it, containers without root.
        for signal_number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in self._pids():
                deadline.check()
                self._send(pid, signal_number)
        patience = Deadline(_GRACE)
        while patience.left and next(self._pids(), None) is not None:
            deadline.check()
            time.sleep(_POLL)

    def _send(self, pid: int, number: signal.Signals) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor is of one process for ever; the number may have got another meanwhile.
            if self._is_ours(pid):
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    def _pids(self) -> Iterator[int]:
        for path in _PROC.iterdir():
            if path.name.isdecimal() and self._is_ours(int(path.name)):
                yield int(path.name)

    def _is_ours(self, pid: int) -> bool:
        return any(self.tenancy.owns(uid) for uid in user_ids(pid))


def kill_at_once(uid: int, deadline: Deadline) -> None:
    """No process that forks all the time gets away from these two.

    Raises:
        TimeoutError: nobody knows what is left.
    """
    # All that systemd has of the user; nothing where control groups are of version 1.
    with contextlib.suppress(FileNotFoundError):
        Path(_SLICE.format(uid=uid)).write_text("1")
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


def user_ids(pid: int) -> set[int]:
    """Its user ids; none of a process that has ended, even if nobody has asked for its end yet."""
    try:
        lines = read_lines(_PROC / str(pid) / "status")
    except (FileNotFoundError, ProcessLookupError):
        return set()
    found: set[int] = set()
    for line in lines:
        name, _, value = line.partition(":")
        if name == "State" and value.strip()[:1] in {"Z", "X"}:
            return set()
        if name == "Uid":
            found = {int(number) for number in value.split()}
    return found


def _name(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "gone"

"""Debian's systemd as process 1 of a host of its own, booted in less than a second."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.services.directory import server_directory
from tests.services.process import PATIENCE, ServerFailed, ServerProcess
from tests.services.programs import find_program

_UNIT = "remotegpu-test.target"
_SERVICES = ("dbus.socket", "systemd-logind", "ssh", "cron", "atd")
_BOOT = Path(__file__).with_name("boot_systemd.sh")
#: Into a control group of its own, which is the root of all in the new namespace.
_ENTER = 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"'


class SystemdHost:
    """Namespaces with their own processes, mounts, network and root, in which systemd runs with
    D-Bus, logind, sshd, cron and atd. The repository is at /media there.

    Only for root. Nothing that is done inside stays, and it ends with this process.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        find_program("systemd", package="systemd", folders=[Path("/lib/systemd")])
        self._stage = folder / "stage"
        self._stage.mkdir()
        self._group = _unified() / folder.name
        self._group.mkdir()
        self._process = ServerProcess(
            [
                *("sh", "-c", _ENTER, "sh", self._group),
                *("unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"),
                *("--fork", "--kill-child", "sh", _BOOT, self._stage, repository, _UNIT),
            ],
            log=folder / "boot.log",
            # unshare ignores everything gentler; systemd goes with it.
            ask_to_end=signal.SIGKILL,
        )

    def wait_until_up(self) -> None:
        """Raises ServerFailed: it did not boot, or one of its services is not there."""
        self._process.wait_until(self._is_up)
        # Of others, a container has no use for some, and they fail.
        if self.run("systemctl", "is-active", *_SERVICES).returncode != 0:
            failed = self.run("systemctl", "list-units", "--failed", "--no-pager", "--plain")
            raise ServerFailed(f"Units failed in systemd's host:\n{failed.stdout}")

    def run(
        self, *command: str, timeout: float = PATIENCE, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """A program inside, as root, outside of all units."""
        return subprocess.run(
            ["nsenter", "--target", str(self._init), "--all", "--", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def stop(self) -> None:
        """As a power cut would; waits until its processes are gone."""
        init = os.pidfd_open(self._init) if self._process.running else None
        self._process.stop()
        if init is not None:
            select.select([init], [], [], PATIENCE)
            os.close(init)
        for group, _, _ in os.walk(self._group, topdown=False):
            Path(group).rmdir()

    @property
    def _init(self) -> int:
        """Systemd as this machine's processes are numbered."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise ServerFailed("Systemd's host has no process 1.")
        return int(children[0])

    def _is_up(self) -> bool:
        try:
            return self._state() in {"running", "degraded"}
        except ServerFailed:
            return False

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running").stdout.strip()


def _unified() -> Path:
    """Where control groups of version 2 are mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    raise ServerFailed("Systemd's host needs control groups of version 2: mount -t cgroup2.")


@contextmanager
def running_systemd(repository: Path) -> Iterator[SystemdHost]:
    """A booted host for the length of the block."""
    with server_directory("systemd") as folder:
        host = SystemdHost(folder, repository)
        try:
            host.wait_until_up()
            yield host
        finally:
            host.stop()

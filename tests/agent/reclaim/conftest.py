"""Tests marked `isolated` run as root on a host of their own: namespaces with their own processes,
IPC objects and mounts, in which /etc, /tmp, /home and the rest are copies or empty. Those marked
`booted` run on one on which systemd is process 1.

The outer test runs pytest once more, inside, for the same test; its fixtures are made twice.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.reclaim.isolation import INSIDE, is_isolated
from tests.services.systemd import running_systemd

_ROOT = Path(__file__).parents[3]
#: Where the repository is seen inside; its own place may be below /tmp, which is another there.
_SEEN = Path("/media")

#: Seconds for a test inside, on a machine that has much else to do.
_PATIENCE = 200

_SCRIPT = r"""
set -eu
mount --make-rprivate /
mount --bind "$1" /media
stage=/run
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/user /run/stage
for directory in /etc /var/spool; do
    mkdir -p "/run/stage$directory"
    cp -a "$directory/." "/run/stage$directory/"
    mount --bind "/run/stage$directory" "$directory"
done
# No second way to them.
mount -t tmpfs -o mode=700 tmpfs /run/stage
for directory in /home /mnt /srv /var/mail /var/lib/systemd; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755 tmpfs "$directory"
done
chmod 1777 /run/lock
mkdir -p /var/lib/systemd/linger /var/lib/systemd/coredump
for directory in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
mkdir -p /dev/mqueue
mount -t mqueue mqueue /dev/mqueue
cd /media
shift
exec "$@"
"""


def _seen(path: str) -> str:
    """A path as it is inside."""
    return str(_SEEN / Path(path).relative_to(_ROOT)) if Path(path).is_relative_to(_ROOT) else path


def _import_path() -> str:
    # An editable install names folders that are not there inside.
    parts = [str(_SEEN / folder) for folder in ("api", "core", "graphql", "protocol", "agent", "")]
    return os.pathsep.join([*parts, *map(_seen, os.environ.get("PYTHONPATH", "").split(":"))])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "isolated: runs as root in namespaces of its own")
    config.addinivalue_line("markers", "booted: runs as root on a host booted by systemd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not is_isolated():
        for item in items:
            if item.get_closest_marker("booted") or item.get_closest_marker("isolated"):
                item.add_marker(pytest.mark.timeout(_PATIENCE + 20))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    booted = pyfuncitem.get_closest_marker("booted") is not None
    if is_isolated() or not (booted or pyfuncitem.get_closest_marker("isolated")):
        return None
    if os.geteuid() != 0:
        pytest.fail("Run this as root: it makes accounts, in a mount namespace of its own.")
    command = [
        *(_seen(sys.executable), "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"),
        *("--no-header", f"--timeout={_PATIENCE}", pyfuncitem.nodeid),
    ]
    environment = os.environ | {INSIDE: str(os.getpid()), "PYTHONPATH": _import_path()}
    done = (_on_booted if booted else _isolated)(command, environment)
    if done.returncode != 0 or "1 passed" not in done.stdout:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    return True


def _isolated(
    command: list[str], environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *("unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", _SCRIPT, "sh", str(_ROOT), *command),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE + 10,
        check=False,
    )


def _on_booted(
    command: list[str], environment: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    with running_systemd(_ROOT) as host:
        return host.run(
            "env", "--chdir", str(_SEEN), *command, timeout=_PATIENCE + 10, environment=environment
        )

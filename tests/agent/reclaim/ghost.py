"""A program of a user whose main thread ends while others go on: /proc shows it as a zombie.

Each of its threads leaves the same thing again and again, wherever somebody removes it. Arguments: user
id, name, home, then names of deeds.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_EXIT = {"x86_64": 60, "aarch64": 93}
_ADD_KEY = {"x86_64": 248, "aarch64": 217}
_IPC_CREAT = 0o1000

libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
#: Words of which this program makes its names.
uid, name, home, *deeds = sys.argv[1:]


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a ghost")


def run(*command: str, text: str) -> None:
    subprocess.run(command, input=text, text=True, capture_output=True, cwd="/", check=False)


def segments() -> None:
    # With a key of its own, so that there is one of each at a time.
    libc.shmget(int(uid), 4096, _IPC_CREAT | 0o600)
    libc.semget(int(uid), 1, _IPC_CREAT | 0o600)
    libc.msgget(int(uid), _IPC_CREAT | 0o600)


def fork() -> None:
    if os.fork() == 0:
        time.sleep(3600)
    time.sleep(1)


DEEDS: dict[str, Callable[[], object]] = {
    "SSH keys": lambda: write(Path(home, ".ssh", "authorized_keys")),
    "cron": lambda: run("crontab", "-", text="* * * * * /bin/true\n"),
    "at jobs": lambda: run("at", "now + 1 hour", text="/bin/true\n"),
    "processes": fork,
    "runtime directory": lambda: write(Path("/run/user", uid, "ghost")),
    "System V IPC": segments,
    "POSIX message queues": lambda: libc.mq_open(
        f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o600, None
    ),
    "kernel keys": lambda: libc.syscall(_ADD_KEY[machine], b"user", b"canary", b"x", 1, -4),
    "shared memory": lambda: write(Path("/dev/shm", name, "ghost")),  # noqa: S108 - users write there
    "temporary files": lambda: write(Path("/tmp", name, "ghost")),  # noqa: S108
    "scratch disks": lambda: write(Path("/srv/scratch", name)),
    "home directory": lambda: write(Path(home, "ghost")),
}


def again_and_again(deed: Callable[[], object]) -> None:
    while True:
        with contextlib.suppress(OSError):
            deed()
        time.sleep(0.02)


def main() -> None:
    """Prints the ghost's process id."""
    child = os.fork()
    if child:
        os.write(1, str(child).encode())
        return
    os.setsid()
    for descriptor in range(3):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    for deed in deeds:
        threading.Thread(target=again_and_again, args=(DEEDS[deed],)).start()
    libc.syscall(_EXIT[machine], 0)


if __name__ == "__main__":
    main()

"""A real account with something in every place where a user leaves something."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

from remotegpu_agent.accounts.subordinate import subordinate_ids
from remotegpu_agent.process_table import user_ids
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from tests.agent.reclaim.isolation import require_isolation

#: Where find(1) looks.
_OPEN_TO_ALL = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/home", "/var/spool")  # noqa: S108
#: Where find(1) looks for what the tenant owns.
_SEARCHED = (*_OPEN_TO_ALL, "/srv")
_TOOLS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

#: Leaves what only a process of the user can: two daemons, one in a session of its own; a System V
#: segment, semaphores and a queue; a POSIX queue and shared memory.
_PROGRAM = """
import ctypes, os, subprocess, sys
# From here on as the user, who cannot read this interpreter's files.
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
libc = ctypes.CDLL(None, use_errno=True)
IPC_CREAT = 0o1000
assert libc.shmget(0, 4096, IPC_CREAT | 0o600) >= 0
assert libc.semget(0, 2, IPC_CREAT | 0o600) >= 0
assert libc.msgget(0, IPC_CREAT | 0o600) >= 0
assert libc.mq_open(b"/" + sys.argv[1].encode(), os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
machine = os.uname().machine
assert libc.syscall({"x86_64": 248, "aarch64": 217}[machine], b"user", b"canary", b"x", 1, -4) > 0
open("/dev/shm/" + sys.argv[1], "w").write("canary")
for path in ("/tmp", "/var/tmp", "/run/lock"):
    os.makedirs(f"{path}/{sys.argv[1]}/deep/er")
    open(f"{path}/{sys.argv[1]}/deep/er/canary", "w").write("canary")
    os.symlink("/etc/passwd", f"{path}/{sys.argv[1]}/link")
    os.symlink("/srv/others", f"{path}/{sys.argv[1]}/deep/others")
quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen(["/bin/sleep", "3600"], start_new_session=True, **quiet)
subprocess.Popen(["/bin/sh", "-c", "trap '' TERM HUP INT; while :; do /bin/sleep 1; done"], **quiet)
"""


def tool(*arguments: str, uid: int | None = None, text: str | None = None) -> str:
    done = subprocess.run(
        arguments,
        env=_TOOLS,
        input=text,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


#: Searches the user's keyring, as keyctl(2) does.
_KEYS = """
import ctypes, os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
print(ctypes.CDLL(None).syscall(number, 10, -4, b"user", b"canary", 0) > 0)
"""


class Tenant:
    """`plant` leaves a canary in every place; `residue` finds them again, in its own way."""

    def __init__(self, name: str, uid: int, gpu_uuids: list[str] | None = None) -> None:
        require_isolation()
        tool("useradd", "--create-home", "--uid", str(uid), "--shell", "/bin/bash", name)
        entry = pwd.getpwnam(name)
        self.account = Account(name, entry.pw_uid, entry.pw_dir)
        self.tenancy = Tenancy(
            f"allocation-{name}", self.account, gpu_uuids or [], subordinate_ids(name, uid)
        )

    @property
    def uid(self) -> int:
        return self.account.uid

    def plant(self) -> None:
        name, uid, home = self.account.name, self.uid, Path(self.account.home)
        tool(sys.executable, "-c", _PROGRAM, name, str(uid))
        (home / ".ssh").mkdir()
        (home / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA canary\n")
        units = home / ".config" / "systemd" / "user"
        units.mkdir(parents=True)
        (units / "canary.service").write_text("[Service]\nExecStart=/bin/sleep 1\n")
        (home / "to root").symlink_to("/")
        tool("chown", "-R", "--no-dereference", f"{uid}:{uid}", str(home))
        (home / "of root").write_text("canary")
        tool("crontab", "-u", name, "-", text="* * * * * /bin/true\n")
        job = (
            Path("/var/spool/cron/atjobs/a0000101c8a2f")
            if uid % 2
            else Path("/var/spool/cron/atjobs/b0000101c8a2f")
        )
        job.write_text("#!/bin/sh\n: canary\n")
        Path(f"/var/lib/systemd/linger/{name}").touch()
        Path(f"/var/lib/systemd/coredump/core.a.out.{uid}.{'0' * 32}.17.1700000000.zst").touch()
        Path(f"/var/mail/{name}").write_text("From canary\n")
        runtime = Path(f"/run/user/{uid}")
        runtime.mkdir()
        (runtime / "bus").touch()
        for path in (job, Path(f"/var/mail/{name}"), runtime, runtime / "bus"):
            os.chown(path, uid, uid)
        if self.tenancy.subordinate:
            first = self.tenancy.subordinate[0][0]
            kept = Path(f"/tmp/sub-{name}")  # noqa: S108 - where users leave things
            kept.write_text("canary")
            os.chown(kept, first + 7, first + 7)

    def residue(self) -> list[str]:
        """By other means than the agent's: find(1), the tables themselves, and names."""
        name, uid = self.account.name, self.uid
        found = self.processes()
        ids = [uid] + [first + 7 for first, _ in self.tenancy.subordinate]
        owned = [part for number in ids for part in ("-o", "-uid", str(number))][1:]
        for root in _SEARCHED:
            found += tool("find", root, "-xdev", "(", *owned, ")").split("\n")[:-1]
        found += tool(
            "find",
            "/home",
            "/var/spool",
            "/var/mail",
            "/var/lib/systemd",
            "/run",
            "-name",
            f"*{name}*",
            "-o",
            "-name",
            f"*.{uid}.*",
        ).split("\n")[:-1]
        if tool(sys.executable, "-c", _KEYS, str(uid)) == "True\n":
            found.append("kernel key")
        for table in ("shm", "sem", "msg"):
            for line in Path(f"/proc/sysvipc/{table}").read_text().splitlines()[1:]:
                if str(uid) in line.split():
                    found.append(f"{table}: {line}")
        for table in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
            content = Path(f"/etc/{table}").read_bytes().decode().split("\n")
            found += [f"{table}: {line}" for line in content if line.startswith(f"{name}:")]
        return found

    def processes(self) -> list[str]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        return [f"process {pid}" for pid in pids if self.uid in user_ids(pid)]

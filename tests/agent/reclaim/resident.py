"""A user of a host that systemd has booted: signed in by SSH, with lingering and units of their own."""

import pwd
import subprocess
from pathlib import Path

from remotegpu_agent.accounts.subordinate import subordinate_ids
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from tests.agent.reclaim.isolation import require_isolation
from tests.agent.reclaim.tenant import tool

_SSH = (
    *("ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"),
    *("-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
)
_LEAVE = Path(__file__).parents[2] / "api" / "lifecycle" / "leave.c"
_SLEEPER = "[Service]\nExecStart=/bin/sleep 3600\nRestart=always\nRestartSec=100ms\n"
_FILES = {
    # Ended by nothing gentle, and started again whenever it ends.
    "canary.service": "[Service]\nRestart=always\nRestartSec=100ms\n"
    """ExecStart=/bin/sh -c 'echo "a canary"; trap "" TERM; while :; do sleep 1; done'\n"""
    "[Install]\nWantedBy=default.target\n",
    "canary-later.service": _SLEEPER,
    "canary-later.timer": "[Timer]\nOnActiveSec=1s\nOnUnitActiveSec=1s\n"
    "[Install]\nWantedBy=timers.target\n",
    "canary-asked.service": _SLEEPER,
    "canary-asked.socket": "[Socket]\nListenStream=%t/canary.sock\n"
    "[Install]\nWantedBy=sockets.target\n",
}
_SETTLE = """
loginctl enable-linger
systemctl --user daemon-reload
systemctl --user --quiet enable --now canary.service canary-later.timer canary-asked.socket
systemd-run --user --scope --quiet --unit=canary-scope sleep 3600 </dev/null >/dev/null 2>&1 &
systemd-run --user --quiet --unit=canary-transient sleep 3600
systemd-run --user --scope --quiet --unit=canary-ghost /run/leave "$LOGNAME"
nohup setsid sleep 3600 </dev/null >/dev/null 2>&1 &
echo $! >"$XDG_RUNTIME_DIR/pid"
echo "* * * * * touch /tmp/cron-$LOGNAME" | crontab -
echo "touch /tmp/at-$LOGNAME" | at now + 1 hour 2>/dev/null
until systemctl --user --quiet is-active canary-scope.scope; do sleep 0.1; done
"""
#: What runs once they have settled.
UNITS = {
    *("canary.service", "canary-later.timer", "canary-asked.socket"),
    *("canary-scope.scope", "canary-transient.service", "canary-ghost.scope"),
}


def make_key(path: Path) -> Path:
    """A new key; the public one lies beside it, with `.pub` appended."""
    tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    return path


class Resident:
    """`settle` starts all of it; the rest says what is there, by other means than the agent's."""

    def __init__(self, name: str, key: Path) -> None:
        require_isolation()
        entry = pwd.getpwnam(name)
        self.account = Account(name, entry.pw_uid, entry.pw_dir)
        self.tenancy = Tenancy(
            f"allocation-{name}", self.account, [], subordinate_ids(name, self.account.uid)
        )
        self._key = key

    @classmethod
    def made(cls, name: str, uid: int, folder: Path) -> "Resident":
        """With an account and a key."""
        require_isolation()
        tool("useradd", "--create-home", "--uid", str(uid), "--shell", "/bin/bash", name)
        tool("usermod", "--password", "*", name)
        key = make_key(folder / f"{name}.key")
        resident = cls(name, key)
        resident._give(".ssh/authorized_keys", key.with_suffix(".key.pub").read_text())
        return resident

    @property
    def uid(self) -> int:
        return self.account.uid

    def ssh(self, command: str, *, text: str | None = None) -> str:
        return tool(*self._ssh(command), text=text)

    def may_enter(self) -> bool:
        return subprocess.run(self._ssh("true"), capture_output=True, timeout=20).returncode == 0

    def stay(self, program: str = "cat") -> "subprocess.Popen[str]":
        """A session that stays open, through PAM and logind."""
        session = subprocess.Popen(
            self._ssh(f"echo here; exec {program}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert session.stdout is not None
        assert session.stdout.readline() == "here\n"
        return session

    def settle(self) -> None:
        """All as the user, who needs nobody's help for it."""
        tool("gcc", "-o", "/run/leave", str(_LEAVE), "-lrt", "-pthread")
        for name, content in _FILES.items():
            self._give(f".config/systemd/user/{name}", content)
        self.ssh("exec sh -e", text=_SETTLE)

    def units(self) -> set[str]:
        """What the user's own manager runs."""
        listed = self.ssh("systemctl --user list-units --plain --no-legend --state=active")
        return {line.split()[0] for line in listed.splitlines()}

    def said(self) -> str:
        """What the journal lets the user read of their units' output."""
        return self.ssh("journalctl --user --quiet --no-pager --output=cat _TRANSPORT=stdout")

    def residue(self) -> list[str]:
        name, uid = self.account.name, str(self.uid)
        ps = subprocess.run(["ps", "-o", "pid=,args=", "-U", uid], capture_output=True, text=True)
        found = [f"process {line.strip()}" for line in ps.stdout.splitlines()]
        units = tool("systemctl", "list-units", "--all", "--plain", "--no-legend", f"*{uid}*")
        found += [line for line in units.splitlines() if line.startswith("user")]
        users = tool("loginctl", "list-users", "--no-legend")
        found += [f"logind: {line}" for line in users.splitlines() if line.split()[0] == uid]
        groups = Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice")
        for path in (groups, Path(f"/run/user/{uid}"), Path(f"/var/lib/systemd/linger/{name}")):
            if path.exists():
                found.append(str(path))
        for path in Path("/var/log/journal").glob(f"*/user-{uid}*"):
            if b"canary" in path.read_bytes():
                found.append(str(path))
        if Path(f"/run/systemd/users/{uid}").exists():
            found.append("logind's record")
        for root in ("/home", "/tmp", "/var/tmp", "/run", "/var/spool", "/var/mail"):  # noqa: S108
            found += tool("find", root, "-uid", uid, "-o", "-name", name).splitlines()
        return found

    def _give(self, path: str, content: str) -> None:
        target = Path(self.account.home) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        tool("chown", "-R", f"{self.uid}:{self.uid}", self.account.home)
        if path.startswith(".ssh"):
            target.chmod(0o600)

    def _ssh(self, command: str) -> list[str]:
        return [*_SSH, "-i", str(self._key), f"{self.account.name}@127.0.0.1", command]

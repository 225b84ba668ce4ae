"""A user on a host: signed in by ssh with a key of theirs, with something of theirs everywhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.api.lifecycle.host import OwnHost, ended
from tests.services.ports import LOOPBACK

_PATIENCE: Final = 30.0

#: What the user does; $1 is the canary's name.
_PLANT: Final = r"""
set -eu
canary=$1
mkdir -p .config/systemd/user .local/bin
echo "[Service]" > .config/systemd/user/$canary.service
echo "echo $canary" >> .bashrc
ln -s / "to root"
mkdir -p locked/deep; echo $canary > locked/deep/file; chmod 000 locked
printf '%s' $canary > "$(printf 'line\nbreak')"
for place in /tmp /var/tmp /dev/shm /run/lock; do
    mkdir -p $place/$canary/deep
    echo $canary > $place/$canary/deep/file
    ln -s /etc/passwd $place/$canary/link
    ln -s /home $place/$canary/deep/homes
    mkfifo $place/$canary/pipe
    chmod 000 $place/$canary/deep/file
done
cp /bin/sh /tmp/$canary/sh; chmod 4755 /tmp/$canary/sh
echo "* * * * * echo $canary" | crontab -
echo "echo $canary" | at now + 2 hours 2> /dev/null
eval "$(ssh-agent)" > /dev/null
nohup sleep 3600 > /dev/null 2>&1 &
setsid sleep 3601 > /dev/null 2>&1 < /dev/null &
(trap '' TERM HUP INT; while :; do sleep 1; done) > /dev/null 2>&1 < /dev/null &
/run/shared/leave $canary
echo planted
"""

#: What the host's own daemons keep for a user, whose programs are not here: $1 name, $2 user id,
#: $3 the canary.
_KEPT_FOR_USERS: Final = r"""
echo "From $3" > /var/mail/$1
touch /var/lib/systemd/linger/$1
touch /var/lib/systemd/coredump/core.$3.$2.00000000000000000000000000000000.17.1700000000.zst
mkdir /run/user/$2; echo $3 > /run/user/$2/bus
chown -R $2:$2 /var/mail/$1 /run/user/$2
echo $3 > /home/$1/of-root
"""

#: Whatever of an account is anywhere, by other means than the agent's: $1 name, $2 user id, $3 the
#: canary. Prints nothing where nothing is.
_RESIDUE: Final = r"""
places="/tmp /var/tmp /dev/shm /dev/mqueue /run /home /etc /var/spool /var/mail /var/crash /var/lib/systemd"
find $places -xdev \( -uid $2 -o -gid $2 -o -name "*$1*" -o -name "*$3*" -o -name "*.$2.*" \) -print
# Without the tables as they were before their last change (passwd-), which the next change ends.
grep -rsl -e "$1" -e "$3" --devices=skip --exclude='*-' /tmp /var/tmp /dev/shm /home /etc \
    /var/spool /var/mail || true
grep -H "^$1:" /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/subgid || true
for table in shm sem msg; do
    awk -v id=$2 -v t=$table 'NR > 1 { for (n = 4; n <= NF; n++) if ($n == id) { print t, $0; next } }' \
        /proc/sysvipc/$table
done
ps -eo uid=,euid=,args= | awk -v id=$2 '$1 == id || $2 == id'
"""

#: What somebody who has just signed in sees that is not the system's, nor new.
_LOOK_AROUND: Final = r"""
ps -eo user=,args= | grep -v '^root ' | grep -v "^$(id -un | cut -c1-7)" || true
find /tmp /var/tmp /dev/shm /dev/mqueue /run/lock /run/user /var/crash -mindepth 1 2> /dev/null
find /home -mindepth 1 -maxdepth 1 -not -name "$(id -un)"
find /var /srv /opt -xdev -uid "$(id -u)" -print 2> /dev/null
crontab -l 2> /dev/null || true
atq
ipcs -m -s -q | grep -E '^0x' || true
ls /var/mail
cat .ssh/authorized_keys
find . -mindepth 1 | sort
"""


class Keys:
    """Key pairs of somebody, in a folder of theirs on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)

    async def make(self, name: str) -> str:
        """The public half of a new one, as `.pub` files have it."""
        await _run(
            *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@lab"),
            *("-f", str(self.folder / name)),
        )
        return (self.folder / f"{name}.pub").read_text()


class Tenant:
    """An account on a host, and whoever has its keys."""

    def __init__(self, host: OwnHost, account: str, keys: Keys, canary: str) -> None:
        self.host = host
        self.account = account
        self.canary = canary
        self._keys = keys

    @property
    def uid(self) -> int:
        """Raises LookupError: the host has no such account."""
        for line in self.host.path("/etc/passwd").read_text().splitlines():
            name, _, uid, *_ = line.split(":")
            if name == self.account:
                return int(uid)
        raise LookupError(self.account)

    def exists(self) -> bool:
        with contextlib.suppress(LookupError):
            return bool(self.uid)
        return False

    def ssh(self, key: str, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        return [
            *("ssh", "-F", "/dev/null", "-p", str(self.host.ssh_port), "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"),
            *(*options, "-i", str(self._keys.folder / key)),
            *(f"{self.account}@{LOOPBACK}", *words),
        ]

    async def enters(self, key: str) -> bool:
        code, out, _ = await ended(*self.ssh(key, "id", "-un"))
        return code == 0 and out.strip() == self.account

    async def does(self, key: str, script: str, *arguments: str) -> str:
        """What a script prints that is run after signing in."""
        code, out, err = await ended(*self.ssh(key, "sh", "-s", "--", *arguments), text=script)
        assert code == 0, (out, err)
        return out

    async def plant(self, key: str) -> None:
        assert (await self.does(key, _PLANT, self.canary)).endswith("planted\n")
        await self.host.shell(_KEPT_FOR_USERS, self.account, str(self.uid), self.canary)

    async def residue(self, uid: int) -> list[str]:
        """Of one that had this user id."""
        found = await self.host.shell(_RESIDUE, self.account, str(uid), self.canary)
        return found.splitlines()

    async def looks_around(self, key: str) -> list[str]:
        return (await self.does(key, _LOOK_AROUND)).splitlines()

    @asynccontextmanager
    async def shell(self, key: str) -> AsyncIterator["OpenShell"]:
        """A session that stays open."""
        process = await asyncio.create_subprocess_exec(
            *self.ssh(key, "sh"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield OpenShell(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    @asynccontextmanager
    async def master(self, key: str) -> AsyncIterator["Master"]:
        """A connection for others to share, without a session of its own."""
        socket = self._keys.folder / "master"
        process = await asyncio.create_subprocess_exec(
            *self.ssh(key, options=("-M", "-N", "-S", str(socket))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                while not socket.exists():
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
            yield Master(self, process, socket)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class OpenShell:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def answers(self) -> bool:
        """Whether it still does what it is told."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"echo here\n")
        async with asyncio.timeout(_PATIENCE):
            return await self.process.stdout.readline() == b"here\n"

    async def ended(self) -> None:
        """By the host, since nobody here ends it."""
        async with asyncio.timeout(_PATIENCE):
            await self.process.wait()


class Master:
    def __init__(self, tenant: Tenant, process: asyncio.subprocess.Process, socket: Path) -> None:
        self.process = process
        self._tenant = tenant
        self._socket = socket

    async def enters(self) -> bool:
        """Whether somebody gets in over the connection that is open, without any key."""
        shared = (
            "-S",
            str(self._socket),
            "-o",
            "ControlMaster=no",
            "-o",
            "PubkeyAuthentication=no",
        )
        code, out, _ = await ended(*self._tenant.ssh("none", "id", "-un", options=shared))
        return code == 0 and out.strip() == self._tenant.account


async def compile_leave(host: OwnHost) -> None:
    """The program that the user runs, where the host sees it."""
    source = Path(__file__).with_name("leave.c")
    program = host.folder / "leave"
    await _run(
        "gcc", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(source), "-lrt", "-pthread"
    )


async def _run(*command: str) -> None:
    code, out, err = await ended(*command)
    assert code == 0, (command, out, err)

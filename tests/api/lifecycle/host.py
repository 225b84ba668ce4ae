"""A host beside this machine: namespaces with processes, IPC objects, mounts and a name of their own.

/etc and the spools are copies, /home, /tmp and the rest are empty, and all of it is gone with the
host. It shares the kernel, the programs and the loopback, so that its sshd and its agent are reached.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.agent.program import command as agent_command
from tests.agent.stub import StubDriver, build_library
from tests.services.ports import LOOPBACK, unused_port

_ROOT: Final = Path(__file__).parents[3]
#: Where the repository, and the folder that the test shares with the host, are seen inside.
_SEEN: Final = Path("/media")
SHARED: Final = Path("/run/shared")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE: Final = 60.0

_SCRIPT: Final = r"""
set -eu
mount --make-rprivate /
mount --bind "$1" /media
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/user /run/stage /run/shared
mkdir -m 755 /run/sshd
chmod 1777 /run/lock
mount --bind "$2" /run/shared
mount -t tmpfs -o mode=755 tmpfs /run/stage
for directory in /etc /var/spool; do
    mkdir -p "/run/stage$directory"
    cp -a "$directory/." "/run/stage$directory/"
    mount --bind "/run/stage$directory" "$directory"
done
# Nothing is in two places.
umount /run/stage
rmdir /run/stage
for directory in /home /mnt /srv /var/mail /var/log /var/crash /var/lib/systemd; do
    mkdir -p "$directory"
    mount -t tmpfs -o mode=755,size=16m tmpfs "$directory"
done
mkdir -p /var/lib/systemd/linger /var/lib/systemd/coredump /etc/remotegpu /dev/mqueue
for directory in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$directory"; done
mount -t mqueue mqueue /dev/mqueue
hostname gpu-01
touch /run/shared/ready
# Process 1 waits for nobody: whom it inherits goes by themself.
exec env --ignore-signal=CHLD sleep infinity
"""

POLICY: Final = """
commands = ["allocation.start", "allocation.update", "allocation.end", "account.keys"]
cleaning = true
"""


def seen(path: str) -> str:
    """A path as it is inside."""
    return str(_SEEN / Path(path).relative_to(_ROOT)) if Path(path).is_relative_to(_ROOT) else path


async def ended(*command: str, text: str = "") -> tuple[int, str, str]:
    """Run a program to its end: its code, output and errors."""
    # On a thread: one that ends before it has read makes the loop's pipes raise.
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        input=text.encode(),
        capture_output=True,
        timeout=_PATIENCE,
        env={"PATH": _PATH, "LC_ALL": "C"},
        check=False,
    )
    return (
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode("utf-8", "replace"),
    )


class Agent:
    """A process of the agent on the host, as this machine sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        #: nsenter, which ends as the agent does.
        self.process = process

    async def kill(self) -> None:
        """As a power cut would, the agent alone."""
        for child in _children(self.process.pid):
            os.kill(child, signal.SIGKILL)
        async with asyncio.timeout(_PATIENCE):
            await self.process.wait()


class OwnHost:
    """`folder` is what the test shares with it: state, logs and keys of the host."""

    def __init__(self, folder: Path, init: int, driver: StubDriver) -> None:
        self.folder = folder
        self.driver = driver
        self.ssh_port = unused_port()
        self._init = init
        self._running: list[asyncio.subprocess.Process] = []

    def path(self, path: str) -> Path:
        """A file of the host, as this machine reaches it."""
        return Path(f"/proc/{self._init}/root{path}")

    def inside(self, *arguments: str) -> list[str]:
        """A command that runs on the host, as root."""
        entering = ("nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--pid")
        return [*entering, "--wd=/", "--", *arguments]

    async def root(self, *arguments: str, text: str = "", accepted: Sequence[int] = (0,)) -> str:
        """What a command of root's prints."""
        code, out, err = await ended(*self.inside(*arguments), text=text)
        assert code in accepted, (arguments, code, out, err)
        return out

    async def shell(self, script: str, *arguments: str) -> str:
        """What a script of root's prints; `arguments` are its $1, $2, ..."""
        return await self.root("sh", "-euc", script, "sh", *arguments)

    async def enroll(self, origin: str, token: str) -> None:
        await self.root(
            *("env", *self._environment, *self._program("enroll", "--server", origin)),
            *("--token", "-", *self._state),
            text=token,
        )

    async def agent(self) -> Agent:
        """The real program, until it is killed."""
        return await self.start(
            *self._program("run", "--gpu-source", "nvml", *self._state), log="agent.log"
        )

    async def python(self, statement: str, *arguments: str, log: str) -> Agent:
        """Python of the test on the host, with the agent's environment."""
        return await self.start(seen(sys.executable), "-P", "-c", statement, *arguments, log=log)

    async def start(self, *arguments: str, log: str) -> Agent:
        with (self.folder / log).open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.inside("env", *self._environment, *arguments),
                env={"PATH": _PATH, "LC_ALL": "C"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._running.append(process)
        return Agent(process)

    def log(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    async def sshd(self) -> None:
        """A real one, which looks for keys where it does by default."""
        await self.root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/host_key")
        options = ("UsePAM=no", "PidFile=none", f"ListenAddress={LOOPBACK}", "LogLevel=INFO")
        await self.start(
            *("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(self.ssh_port)),
            *("-h", "/run/host_key", "-o", "PasswordAuthentication=no"),
            *(part for option in options for part in ("-o", option)),
            log="sshd.log",
        )
        async with asyncio.timeout(_PATIENCE):
            while "Server listening" not in self.log("sshd.log"):  # noqa: ASYNC110 - a file's text
                await asyncio.sleep(0.02)

    async def allow(self, policy: str = POLICY) -> None:
        self.path("/etc/remotegpu/policy.toml").write_text(policy)

    @property
    def _state(self) -> tuple[str, str]:
        return ("--state-dir", str(SHARED / "state"))

    @property
    def _environment(self) -> list[str]:
        folders = [str(_SEEN / folder) for folder in ("agent", "protocol", "")]
        return [
            f"PYTHONPATH={os.pathsep.join(folders)}",
            f"LD_LIBRARY_PATH={SHARED / 'driver'}",
            f"NVML_STUB_FILE={SHARED / 'stub.txt'}",
        ]

    @staticmethod
    def _program(*arguments: str) -> list[str]:
        program, *more = agent_command(*arguments)
        return [seen(program), *more]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _prepared(folder: Path) -> StubDriver:
    assert os.geteuid() == 0, "hosts of their own are made by root: run this test as root"
    for program in ("/usr/sbin/sshd", "/usr/bin/crontab", "/usr/bin/at"):
        assert Path(program).exists(), f"{program} is missing: scripts/test_packages.sh"
    folder.mkdir(mode=0o755)
    driver = StubDriver(folder, build_library(folder))
    driver.install()
    # What the driver itself takes of a GPU that nobody uses.
    driver.tell({"card0.memory.used": 400 << 20, "card1.memory.used": 400 << 20})
    return driver


@asynccontextmanager
async def own_host(folder: Path) -> AsyncIterator[OwnHost]:
    """A host with two GPUs and sshd; nothing of it is left afterwards."""
    driver = _prepared(folder)
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
        *("--mount-proc", "sh", "-c", _SCRIPT, "sh", str(_ROOT), str(folder)),
        env={"PATH": _PATH},
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            while not (folder / "ready").exists():
                assert process.returncode is None, "the host's namespaces could not be made"
                await asyncio.sleep(0.01)
        (init,) = _children(process.pid)
        host = OwnHost(folder, init, driver)
        await host.allow()
        await host.sshd()
        try:
            yield host
        finally:
            process.kill()
            await process.wait()
            # All that ran in it is dead with its process 1.
            for started in host._running:
                await started.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

"""`remotegpu demo`: the whole system on one machine, with real agents as child processes."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

from remotegpu_api.server import running
from remotegpu_core.actor import SYSTEM
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import RemoteGPUError, Unavailable
from remotegpu_core.models import Machine, User
from remotegpu_core.passwords import verify_password
from remotegpu_core.services import freeze
from remotegpu_core.services.enrollments import create_enrollment
from remotegpu_core.services.users import reset_password
from remotegpu_core.settings import Settings
from remotegpu_graphql.ids import encode_id

log = structlog.get_logger()

#: Seconds that agents have to end by themselves.
_PATIENCE = 2.0
_ENROLL_TIMEOUT = 30.0

_SUBSCRIPTION = """subscription {{
  machineMetrics(machineIds: [{ids}]) {{
    machineId sampledAt
    host {{ cpuUtilization memoryUsed }}
    gpus {{ index utilization memoryUsed temperature power }}
  }}
}}"""
#: Machines that the ready subscription follows; more would not fit a screen.
_FOLLOWED = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    hosts: int
    gpus: int
    password: str | None


class Enrolled(msgspec.Struct, frozen=True):
    """What an agent's directory was enrolled as, so that a second start does not do it again."""

    machine_id: str
    origin: str


@dataclass(frozen=True, slots=True)
class DemoHost:
    """A machine of the demo. `source` tells the agent's `enroll` and `run` where its GPUs come
    from, and so which hardware it is; `options` are for `run` alone."""

    name: str
    source: tuple[str, ...]
    options: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]


async def run_demo(settings: Settings, options: DemoOptions, console: Console) -> None:
    """Serve, enrol, run agents, and end all of it on Ctrl-C.

    Raises:
        RemoteGPUError: a taken port, an unwritable directory, and the like.
    """
    async with running(settings) as (server, plane):
        await _apply_password(plane, options)
        serving = asyncio.create_task(server.run_until_stopped())
        agents = Agents(plane)
        starting: asyncio.Task[None] | None = None
        try:
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells by a flag
                await asyncio.sleep(0.02)
            await confirm_clock(console)
            _introduce(plane, options, console)
            starting = asyncio.create_task(_start(agents, options, console))
            await serving
        finally:
            if starting is not None:
                starting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await starting
            server.should_exit = True
            await asyncio.gather(agents.stop(), serving)
    console.print("Stopped. Everything is kept in", str(settings.data_dir), markup=False)


async def _apply_password(plane: ControlPlane, options: DemoOptions) -> None:
    """ADMIN_PASSWORD counts on every start, not on the first only."""
    if options.password is None:
        return
    admin = await User.get_or_none(username_key="admin")
    if admin is not None and not await verify_password(options.password, admin.password_hash):
        await reset_password(SYSTEM, "admin", options.password)


async def confirm_clock(console: Console) -> None:
    """A demo that was stopped for longer than `clock_watch` believes goes on by itself: nothing of
    it but made-up machines is taken back by time."""
    if not await freeze.is_clock_doubted():
        return
    frozen = await freeze.end(SYSTEM)
    log.warning("demo.clock_confirmed", reason=frozen.reason)
    console.print(
        "The demo was stopped for a while, or the clock was set. It takes this computer's clock for "
        "right and goes on; a server would wait for an administrator (endFreeze).",
        markup=False,
        soft_wrap=True,
    )


async def _start(agents: "Agents", options: DemoOptions, console: Console) -> None:
    simulated = [_simulated(number, options.gpus) for number in range(1, options.hosts + 1)]
    hosts = [*simulated, _this_host()]
    try:
        # One after the other: two cores start a dozen Python programs no faster at once.
        for host in hosts:
            await agents.start(host)
    except RemoteGPUError as error:
        console.print(f"error: {error.message}", markup=False)
        return
    followed = await Machine.filter(
        name_key__in=[host.name.lower() for host in hosts[:_FOLLOWED]]
    ).order_by("name_key")
    ids = ", ".join(f'"{encode_id("Machine", machine.id)}"' for machine in followed)
    console.print(
        f"{_running(options)} Paste this into the console to see "
        f"{'it' if len(hosts) == 1 else 'some of them'} live:\n\n"
        f"{_SUBSCRIPTION.format(ids=ids)}\n\nCtrl-C ends it.\n",
        markup=False,
        soft_wrap=True,
    )


def _running(options: DemoOptions) -> str:
    if options.hosts == 0:
        return "1 agent is running: it watches this host."
    others = "the other is" if options.hosts == 1 else "the others are"
    gpus = "1 made-up\nGPU" if options.gpus == 1 else f"{options.gpus} made-up\nGPUs"
    return (
        f"{options.hosts + 1} agents are running: one watches this host, {others} the same program "
        f"with {gpus}{' each' if options.hosts > 1 else ''}."
    )


def _this_host() -> DemoHost:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-._")[:63]
    return DemoHost(name or "this-host", ("--gpu-source", "auto"), (), (("demo", "real"),))


def _simulated(number: int, gpus: int) -> DemoHost:
    return DemoHost(
        f"sim-{number:02d}",
        ("--gpu-source", "simulated", "--simulated-seed", str(number)),
        ("--simulated-gpus", str(gpus)),
        (("demo", "simulated"), ("rack", f"r{(number - 1) // 4 + 1}")),
    )


def _introduce(plane: ControlPlane, options: DemoOptions, console: Console) -> None:
    settings = plane.settings
    if options.password is not None:
        sign_in = "the password in ADMIN_PASSWORD"
    elif plane.first_password is not None:
        sign_in = f"the password {plane.first_password} (shown this once)"
    else:
        sign_in = (
            "the password that the first start showed (ADMIN_PASSWORD=... make demo sets another)"
        )
    console.print(
        f"\nRemoteGPU runs at {settings.origin}/graphql\nSign in as admin with {sign_in}.\n"
        f"State is kept in {settings.data_dir}/. Starting {options.hosts + 1} agents ...\n",
        markup=False,
        soft_wrap=True,
    )


class Agents:
    """The demo's agents, each a process of its own with a directory of its own."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = False

    async def start(self, host: DemoHost) -> None:
        """Enrol the host unless it is, and run its agent.

        Raises:
            Unavailable: the agent could not be enrolled; the message has its own words.
        """
        directory = self._plane.settings.data_dir.resolve() / "agents" / host.name
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._enroll(host, directory)
        command = _agent("run", "--state-dir", str(directory), *host.source, *host.options)
        with (directory.parent / f"{host.name}.log").open("ab") as output:
            self._processes[host.name] = await asyncio.create_subprocess_exec(
                *_bound_to_us(),
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C reaches us alone, and we end them in our order.
                start_new_session=True,
                env=_environment(),
            )

    async def stop(self) -> None:
        """End every agent: politely, then at once."""
        running_ = [p for p in self._processes.values() if p.returncode is None]
        for process in running_:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        waiting = [asyncio.create_task(process.wait()) for process in running_]
        if waiting:
            await asyncio.wait(waiting, timeout=_PATIENCE)
        for process in running_:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*waiting)

    async def _enroll(self, host: DemoHost, directory: Path) -> None:
        origin = self._plane.settings.origin
        marker = directory.parent / f"{host.name}.json"
        machine = await Machine.get_or_none(name_key=host.name.lower())
        known = _read(marker)
        enrolled_before = os.path.exists(directory)  # noqa: ASYNC240, PTH110 - one stat of a local directory
        if enrolled_before and machine is not None and known == Enrolled(str(machine.id), origin):
            return
        token, _ = await create_enrollment(
            SYSTEM,
            self._plane.settings,
            machine_name=None if machine else host.name,
            machine_id=machine.id if machine else None,
            labels=() if machine else host.labels,
        )
        arguments = ["enroll", "--server", origin, "--token", "-", "--state-dir", str(directory)]
        arguments += host.source
        if enrolled_before:
            arguments.append("--replace")
        process = await asyncio.create_subprocess_exec(
            *_bound_to_us(),
            *_agent(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=_environment(),
        )
        try:
            output, _ = await asyncio.wait_for(
                process.communicate(f"{token}\n".encode()), _ENROLL_TIMEOUT
            )
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            words = output.decode("utf-8", "replace").strip()
            raise Unavailable(f"The agent of {host.name} could not be enrolled: {words}")
        machine = await Machine.get(name_key=host.name.lower())
        marker.write_bytes(msgspec.json.encode(Enrolled(str(machine.id), origin)))


def _read(marker: Path) -> Enrolled | None:
    try:
        return msgspec.json.decode(marker.read_bytes(), type=Enrolled)
    except (OSError, msgspec.MsgspecError):
        return None


def _agent(*arguments: str) -> list[str]:
    # The program beside the interpreter that runs us: the same installation.
    return [str(Path(sys.executable).with_name("remotegpu-agent")), *arguments]


def _bound_to_us() -> list[str]:
    """Have the kernel end a child when we die, however we die; util-linux has the program."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _environment() -> dict[str, str]:
    """Ours without secrets and without settings that are meant for the control plane."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REMOTEGPU_") and name not in {"ADMIN_PASSWORD", "PORT", "DATA"}
    }

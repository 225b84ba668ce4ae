"""The life of one `run`: logs, lock, signals, and an end within two seconds."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Final

import structlog

from remotegpu_agent.agent import Agent, AgentTimes
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import DEFAULT_PATH, PolicyFile, SimulatedPolicy
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.keeper import DatasetKeeper
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.identity import Identity, load_identity
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_agent.sources.choose import SourceKind, SourceSettings, make_presented, make_source
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile
from remotegpu_agent.version import agent_version

_log = structlog.get_logger("remotegpu_agent")

#: Seconds from the signal after which the process ends whatever still hangs.
_LAST_RESORT: Final = 1.9


def run_agent(
    directory: StateDirectory,
    settings: SourceSettings,
    *,
    policy: Path = DEFAULT_PATH,
    proxy: str | None = None,
    times: AgentTimes | None = None,
    desk: CommandDesk | None = None,
) -> None:
    """Run the agent of `directory` until SIGTERM or SIGINT.

    Raises:
        NotEnrolled, AlreadyRunning, StateDirectoryError, SettingError: before anything starts.
    """
    # Before the lock, which needs a directory.
    load_identity(directory)
    with directory.locked():
        identity = load_identity(directory)
        source = make_source(settings, identity.key)
        desk = desk or make_desk(directory, settings, policy, source)
        asyncio.run(_run(identity, directory, settings, source, desk, proxy=proxy, times=times))
        _log.info("stopped", machine=identity.machine_name)


def make_desk(
    directory: StateDirectory, settings: SourceSettings, policy: Path, source: GpuSource
) -> CommandDesk:
    """What takes commands: a simulated host pretends, any other does what its policy allows."""
    simulated = settings.kind is SourceKind.SIMULATED
    disk = DiskThread()
    allowed = SimulatedPolicy() if simulated else PolicyFile(policy)
    access = GpuAccess(directory, disk, allowed)
    datasets = Datasets(MountStore(directory))
    readiness = Readiness(disk, allowed, source, access, datasets)
    return CommandDesk(
        directory,
        make_handlers(
            directory,
            disk,
            allowed,
            source,
            access=access,
            datasets=datasets,
            readiness=readiness,
            simulated=simulated,
        ),
        allowed,
        disk=disk,
        access=None if simulated else access,
        readiness=None if simulated else readiness,
        reserve=None if simulated else directory.reserve,
        datasets=None if simulated else DatasetKeeper(datasets, directory, disk, allowed),
    )


async def _run(
    identity: Identity,
    directory: StateDirectory,
    settings: SourceSettings,
    source: GpuSource,
    desk: CommandDesk,
    *,
    proxy: str | None,
    times: AgentTimes | None,
) -> None:
    agent = Agent(
        identity,
        source,
        StatusFile(directory),
        desk,
        presented=make_presented(settings, identity.key, identity.machine_name),
        proxy=proxy,
        times=times,
    )
    running = asyncio.create_task(agent.run(), name="agent")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, running, number)
    _log.info(
        "starting",
        version=agent_version(),
        machine=identity.machine_name,
        server=identity.origin,
        gpu_source=settings.kind.value,
        pid=os.getpid(),
    )
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def _stop(running: "asyncio.Task[None]", number: signal.Signals) -> None:
    if not running.cancelling():
        _log.info("stopping", signal=number.name)
        # A name server that does not answer holds a thread that Python would wait for.
        last_resort = threading.Timer(_LAST_RESORT, os._exit, (0,))
        last_resort.daemon = True
        last_resort.start()
    running.cancel()

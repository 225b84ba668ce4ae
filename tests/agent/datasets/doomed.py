"""The whole agent in a process of its own, which kills itself while it mounts or unmounts."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from remotegpu_agent.agent import AgentTimes
from remotegpu_agent.backoff import Pauses
from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.handlers import MountDataset, UnmountDataset
from remotegpu_agent.datasets.keeper import DatasetKeeper
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.running import run_agent
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.state_directory import StateDirectory
from tests.agent.commands.mortal import Death, Mortal
from tests.forking import CONTEXT

_TIMES = AgentTimes(pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.1, permanent=0.5))


def live(directory: Path, death: Death) -> None:
    configure_logs("error", "console")
    state, disk, policy, source = (
        StateDirectory(directory),
        DiskThread(),
        PolicyFile(),
        AbsentSource(),
    )
    datasets = Datasets(MountStore(state), witness=Mortal(death))
    mount = MountDataset(datasets, AllocationStore(state), disk, policy, state.path)
    unmount = UnmountDataset(datasets)
    handlers = {
        **make_handlers(state, disk, policy, source, datasets=datasets),
        mount.kind.name: mount,
        unmount.kind.name: unmount,
    }
    # Beside it whoever mounts again what is missing, as often as it can.
    keeper = DatasetKeeper(datasets, state, disk, policy, interval=0.05)
    desk = CommandDesk(state, handlers, policy, disk=disk, datasets=keeper)
    run_agent(state, SourceSettings(SourceKind.NONE), times=_TIMES, desk=desk)


@contextmanager
def alive(directory: StateDirectory, death: Death | None = None) -> Iterator[BaseProcess]:
    process = CONTEXT.Process(target=live, args=(directory.path, death or Death()))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(20)

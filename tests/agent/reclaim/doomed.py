"""The whole agent in a process of its own, which kills itself while it cleans."""

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
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.logs import configure_logs
from remotegpu_agent.reclaim.handler import Reclaim
from remotegpu_agent.reclaim.tenancy import Account
from remotegpu_agent.running import run_agent
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.sources.choose import SourceKind, SourceSettings
from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.state_directory import StateDirectory
from tests.agent.commands.mortal import Death, Mortal
from tests.forking import CONTEXT

_TIMES = AgentTimes(pauses=Pauses(first_low=0.01, first_high=0.05, cap=0.1, permanent=0.5))


class OneAccount:
    """Who made the account of the one allocation."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def find(self, allocation_id: str) -> Account | None:
        return self._account if allocation_id == f"allocation-{self._account.name}" else None

    async def was_never_made(self, allocation_id: str) -> bool:
        return False

    async def forget(self, allocation_id: str) -> None:
        """The test remembers."""


def live(
    directory: Path,
    account: Account,
    death: Death,
    driver: dict[str, str] | None = None,
    devices: Path = Path("/"),
) -> None:
    configure_logs("error", "console")
    state, disk, source, policy = (
        StateDirectory(directory),
        DiskThread(),
        AbsentSource() if driver is None else NvmlSource(environment=driver),
        PolicyFile(),
    )
    accounts = OneAccount(account)
    access = GpuAccess(state, disk, policy, DeviceNodes(devices))
    reclaim = Reclaim(
        AllocationStore(state),
        state,
        disk,
        policy,
        accounts,
        source,
        access=access,
        witness=Mortal(death),
    )
    handlers = make_handlers(state, disk, policy, source, access=access)
    handlers = {**handlers, reclaim.kind.name: reclaim}
    desk = CommandDesk(state, handlers, policy, disk=disk, access=access)
    run_agent(state, SourceSettings(SourceKind.NONE), times=_TIMES, desk=desk)


@contextmanager
def alive(
    directory: Path,
    account: Account,
    death: Death,
    driver: dict[str, str] | None = None,
    devices: Path = Path("/"),
) -> Iterator[BaseProcess]:
    """`driver`: the environment in which its library is found; None on a host without GPUs.
    `devices`: below it are the device files."""
    process = CONTEXT.Process(target=live, args=(directory, account, death, driver, devices))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(20)

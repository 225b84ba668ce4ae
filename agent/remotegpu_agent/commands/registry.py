"""Which handler carries which kind of command out."""

from typing import Any

from remotegpu_agent.commands.account_keys import ReplaceKeys
from remotegpu_agent.commands.admission import Handlers
from remotegpu_agent.commands.allocated_gpus import GpusOfHost
from remotegpu_agent.commands.allocations import (
    AllocationStore,
    StartAllocation,
    UpdateAllocation,
)
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import Handler
from remotegpu_agent.commands.made_accounts import AllocationAccounts
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.commands.simulation import (
    SimulatedEnd,
    SimulatedKeys,
    SimulatedMount,
    SimulatedStart,
    SimulatedUnmount,
    SimulatedUpdate,
)
from remotegpu_agent.reclaim.baselines import Baselines, BaselineStore
from remotegpu_agent.reclaim.handler import Reclaim
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory


def make_handlers(
    directory: StateDirectory,
    disk: DiskThread,
    policy: PolicySource,
    source: GpuSource,
    *,
    simulated: bool = False,
) -> Handlers:
    """One handler a kind, for a real host or for one that pretends."""
    store = AllocationStore(directory)
    gpus = GpusOfHost(policy, disk, Baselines(BaselineStore(directory), disk, source))
    handlers: list[Handler[Any]] = (
        [
            SimulatedStart(store, disk),
            SimulatedUpdate(store, disk),
            SimulatedEnd(store, disk),
            SimulatedKeys(),
            SimulatedMount(),
            SimulatedUnmount(),
        ]
        if simulated
        else [
            StartAllocation(store, disk, policy, gpus),
            UpdateAllocation(store, disk, gpus),
            Reclaim(store, directory, disk, policy, AllocationAccounts(store, disk), source),
            ReplaceKeys(policy),
        ]
    )
    return {handler.kind.name: handler for handler in handlers}

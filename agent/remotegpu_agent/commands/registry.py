"""Which handler carries which kind of command out."""

from typing import Any

from remotegpu_agent.commands.admission import Handlers
from remotegpu_agent.commands.allocations import (
    AllocationStore,
    StartAllocation,
    UpdateAllocation,
)
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import Handler
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.commands.simulation import SimulatedEnd, SimulatedStart, SimulatedUpdate
from remotegpu_agent.reclaim.handler import NO_ACCOUNTS, Accounts, Reclaim
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory


def make_handlers(
    directory: StateDirectory,
    disk: DiskThread,
    policy: PolicySource,
    source: GpuSource,
    *,
    accounts: Accounts = NO_ACCOUNTS,
    simulated: bool = False,
) -> Handlers:
    """One handler a kind, for a real host or for one that pretends."""
    store = AllocationStore(directory)
    handlers: list[Handler[Any]] = (
        [SimulatedStart(store, disk), SimulatedUpdate(store, disk), SimulatedEnd(store, disk)]
        if simulated
        else [
            StartAllocation(store, disk),
            UpdateAllocation(store, disk),
            Reclaim(store, directory, disk, policy, accounts, source),
        ]
    )
    return {handler.kind.name: handler for handler in handlers}

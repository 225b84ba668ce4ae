"""Which handler carries which kind of command out."""

from typing import Any

from remotegpu_agent.accounts.ids import IdLedger
from remotegpu_agent.commands.account_keys import ReplaceKeys
from remotegpu_agent.commands.admission import Handlers
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
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.handlers import MountDataset, UnmountDataset
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.gpu_access.gpus_of_host import GpusOfHost
from remotegpu_agent.reclaim.baselines import Baselines, BaselineStore
from remotegpu_agent.reclaim.handler import Reclaim
from remotegpu_agent.reclaim.leftovers import leftovers
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory


def make_handlers(
    directory: StateDirectory,
    disk: DiskThread,
    policy: PolicySource,
    source: GpuSource,
    *,
    access: GpuAccess | None = None,
    datasets: Datasets | None = None,
    readiness: Readiness | None = None,
    simulated: bool = False,
) -> Handlers:
    """One handler a kind, for a real host or for one that pretends.

    `access` is whoever keeps the GPUs' device files meanwhile: there must be one only.
    """
    access = access or GpuAccess(directory, disk, policy)
    store = AllocationStore(directory)
    baselines = Baselines(BaselineStore(directory), disk, source)
    datasets = datasets or Datasets(MountStore(directory))
    readiness = readiness or Readiness(disk, policy, source, access, datasets)
    gpus = GpusOfHost(policy, disk, baselines, access, readiness)
    ids = IdLedger(
        directory,
        lambda uid, further: leftovers(uid, further, policy.read().scratch, access.devices),
    )
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
            StartAllocation(store, disk, policy, gpus, ids),
            UpdateAllocation(store, disk, gpus),
            Reclaim(
                store,
                directory,
                disk,
                policy,
                AllocationAccounts(store, disk),
                source,
                access=access,
                datasets=datasets,
            ),
            ReplaceKeys(policy),
            MountDataset(datasets, store, disk, policy, directory.path),
            UnmountDataset(datasets),
        ]
    )
    return {handler.kind.name: handler for handler in handlers}

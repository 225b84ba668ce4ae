"""The order of cleaning."""

from collections.abc import Sequence

from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.baselines import Baseline
from remotegpu_agent.reclaim.scratch_disk import ScratchDisk
from remotegpu_agent.reclaim.step import Step
from remotegpu_agent.reclaim.surfaces.account import AccountItself
from remotegpu_agent.reclaim.surfaces.containers import Containers
from remotegpu_agent.reclaim.surfaces.datasets import MountedDatasets
from remotegpu_agent.reclaim.surfaces.files import CoreDumps, Mail, SharedMemory, TemporaryFiles
from remotegpu_agent.reclaim.surfaces.gpu_devices import DevicePermissions
from remotegpu_agent.reclaim.surfaces.gpu_settings import ClockLocks, GpuSettings
from remotegpu_agent.reclaim.surfaces.gpus import Gpus
from remotegpu_agent.reclaim.surfaces.home import Home
from remotegpu_agent.reclaim.surfaces.ipc import MessageQueues, SystemVIpc
from remotegpu_agent.reclaim.surfaces.jobs import AtJobs, Cron
from remotegpu_agent.reclaim.surfaces.journals import Journals
from remotegpu_agent.reclaim.surfaces.kernel_keys import KernelKeys
from remotegpu_agent.reclaim.surfaces.mounts import Mounts
from remotegpu_agent.reclaim.surfaces.network import Ports
from remotegpu_agent.reclaim.surfaces.processes import Processes
from remotegpu_agent.reclaim.surfaces.scratch import scratch_step
from remotegpu_agent.reclaim.surfaces.sign_in import SignIn
from remotegpu_agent.reclaim.surfaces.ssh_keys import SshKeys
from remotegpu_agent.reclaim.surfaces.systemd import (
    KnownUser,
    Lingering,
    RuntimeDirectory,
    UserUnits,
)
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.reclaim.vantage import Vantage
from remotegpu_agent.sources.source import GpuSource


def make_steps(
    tenancy: Tenancy,
    source: GpuSource,
    baseline: Baseline,
    access: GpuAccess,
    datasets: Datasets | None = None,
    scratch: Sequence[ScratchDisk] = (),
) -> list[Step]:
    """First what lets somebody in or begins by itself, then what runs, then what lies about, and
    the account when all of that is proven."""
    return [
        Vantage(tenancy),
        SignIn(tenancy),
        SshKeys(tenancy),
        Lingering(tenancy),
        Cron(tenancy),
        AtJobs(tenancy),
        UserUnits(tenancy),
        Containers(tenancy),
        # Before processes are ended, which might open them once more.
        DevicePermissions(tenancy, access),
        Processes(tenancy),
        Mounts(tenancy),
        MountedDatasets(tenancy, datasets),
        RuntimeDirectory(tenancy),
        SystemVIpc(tenancy),
        MessageQueues(tenancy),
        KernelKeys(tenancy),
        SharedMemory(tenancy),
        TemporaryFiles(tenancy),
        scratch_step(tenancy, scratch),
        Mail(tenancy),
        CoreDumps(tenancy),
        Journals(tenancy),
        Home(tenancy),
        KnownUser(tenancy),
        Gpus(tenancy, source, baseline, access.devices),
        GpuSettings(tenancy, source, baseline),
        ClockLocks(tenancy, source, baseline),
        Ports(tenancy),
        AccountItself(tenancy),
    ]

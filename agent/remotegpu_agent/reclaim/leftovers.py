"""Whether anything of an earlier owner is left of a user id, before an account gets it."""

from collections.abc import Callable, Sequence
from typing import Final

from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.gpu_access.permissions import entries_of
from remotegpu_agent.reclaim.scratch_disk import ScratchDisk
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Obstacle
from remotegpu_agent.reclaim.surfaces.files import CoreDumps, SharedMemory, TemporaryFiles
from remotegpu_agent.reclaim.surfaces.ipc import MessageQueues, SystemVIpc
from remotegpu_agent.reclaim.surfaces.jobs import AtJobs, Cron
from remotegpu_agent.reclaim.surfaces.journals import Journals
from remotegpu_agent.reclaim.surfaces.kernel_keys import KernelKeys
from remotegpu_agent.reclaim.surfaces.mounts import Mounts
from remotegpu_agent.reclaim.surfaces.processes import Processes
from remotegpu_agent.reclaim.surfaces.scratch import ScratchFiles
from remotegpu_agent.reclaim.surfaces.systemd import KnownUser, RuntimeDirectory, UserUnits
from remotegpu_agent.reclaim.tenancy import Account, Tenancy

#: Seconds for each surface: a start does not wait for what the end of an allocation waits for.
_PATIENCE: Final = 20.0
#: Of no account: steps that go by names find nothing.
_NOBODY: Final = "rg-none"

#: Surfaces that go by user id.
_STEPS: Final[Sequence[Callable[[Tenancy], BlockingStep]]] = (
    *(Processes, UserUnits, KnownUser, RuntimeDirectory, Mounts),
    *(Cron, AtJobs, SystemVIpc, MessageQueues, KernelKeys),
    *(SharedMemory, TemporaryFiles, CoreDumps, Journals),
)


def leftovers(
    uid: int,
    further: range | None,
    disks: Sequence[ScratchDisk] = (),
    nodes: DeviceNodes | None = None,
) -> str | None:
    """What is found first of the user id or the further ids, in words; None where nothing is.

    A surface that cannot be looked at tells nothing: whether the end of an allocation could be proven
    is another question.
    """
    tenancy = Tenancy(
        _NOBODY,
        Account(_NOBODY, uid, f"/home/{_NOBODY}"),
        [],
        [] if further is None else [(further.start, len(further))],
    )
    for step in (*(make(tenancy) for make in _STEPS), ScratchFiles(tenancy, disks)):
        try:
            if step.absence() is None and (found := step.look_now(Deadline(_PATIENCE))):
                return f"{step.surface}: {found}"
        except (Obstacle, OSError, TimeoutError):
            continue
    try:
        path = next(entries_of(nodes or DeviceNodes(), tenancy.owns), None)
    except OSError:
        return None
    return None if path is None else f"GPU device permissions: {path}"

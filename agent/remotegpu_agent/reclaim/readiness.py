"""Whether the end of an allocation could be proven on this host: asked before it begins."""

import asyncio
from typing import Final

import structlog

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.policy import LocalPolicy, PolicySource
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_agent.reclaim.tools import find_tool
from remotegpu_agent.sources.settings import SettingsRequest
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import DriverState, GpuHealth
from remotegpu_protocol.kinds import AllocationStart
from remotegpu_protocol.surfaces import Surface

#: Seconds between two looks: programs are installed, and daemons begin to hang.
INTERVAL: Final = 60.0
#: Seconds for one surface.
_PATIENCE: Final = 20.0
#: Walking through files takes its time and tells nothing beyond what HOST_VIEW tells; the others
#: find what is there before anybody could have made it.
_NOT_ASKED: Final = frozenset(
    {
        *(Surface.SSH_KEYS, Surface.RUNTIME_DIRECTORY, Surface.HOME, Surface.MAIL),
        *(Surface.SHARED_MEMORY, Surface.TEMPORARY_FILES, Surface.GPU_CLOCK_LOCKS),
    }
)
#: What is found on a GPU before an allocation would be found after it.
_FOUND_COUNTS: Final = frozenset({Surface.GPU_MEMORY})
#: No account: nothing is this user's.
_NOBODY: Final = Account("rg-none", 2**32 - 2, "/home/rg-none")

_log = structlog.get_logger("remotegpu_agent")


class Readiness:
    """Only where the host's policy says `cleaning = true`: nothing is promised elsewhere."""

    def __init__(
        self,
        disk: DiskThread,
        policy: PolicySource,
        source: GpuSource,
        access: GpuAccess,
        datasets: Datasets,
        *,
        interval: float = INTERVAL,
    ) -> None:
        #: For the inventory, as of the last look.
        self.obstacles: list[str] = []
        self._disk = disk
        self._policy = policy
        self._source = source
        self._access = access
        self._datasets = datasets
        self._interval = interval

    async def run(self) -> None:
        """Look now and again, until cancelled."""
        while True:
            found = await self.look()
            if found != self.obstacles:
                self.obstacles = found
                _log.warning("what cleaning could not prove", obstacles=found)
            await asyncio.sleep(self._interval)

    async def look(self) -> list[str]:
        """Why the end of any allocation could not be proven; none where the host does not clean."""
        policy = await self._disk(self._policy.read)
        if not policy.cleaning:
            return []
        report = await self._source.inventory()
        # A card that is lost is told as such.
        well = [gpu.uuid for gpu in report.gpus if gpu.health is not GpuHealth.UNHEALTHY]
        uuids = well if report.driver_state is DriverState.READY else []
        return await self._obstacles(policy, Tenancy("none", _NOBODY, uuids), found=False)

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        """Why this allocation must not begin here."""
        policy = await self._disk(self._policy.read)
        if not policy.cleaning:
            return None
        tenancy = Tenancy(
            arguments.allocation_id,
            _NOBODY,
            arguments.gpu_uuids,
            whole_machine=arguments.whole_machine,
        )
        obstacles = await self._obstacles(policy, tenancy, found=True)
        if not obstacles:
            return None
        return CommandFailed(
            "NOT_PROVABLE", f"The end of the allocation could not be proven. {obstacles[0]}"
        )

    async def _obstacles(self, policy: LocalPolicy, tenancy: Tenancy, *, found: bool) -> list[str]:
        baseline = {}
        if tenancy.gpu_uuids:
            baseline = (await self._source.tune(SettingsRequest(tenancy.gpu_uuids))).settings
        steps = make_steps(
            tenancy, self._source, baseline, self._access, self._datasets, policy.scratch
        )
        reasons = []
        for step in steps:
            reason = await _reason(step, found=found and step.surface in _FOUND_COUNTS)
            if reason is not None:
                reasons.append(clean_text(f"{step.surface}: {reason}", 500))
                if step.needed_by_all:
                    break
        return reasons


async def _reason(step: Step, *, found: bool) -> str | None:
    if step.surface in _NOT_ASKED or step.absence() is not None:
        return None
    missing = [name for name in step.tools if find_tool(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed on this host."
    try:
        async with asyncio.timeout(_PATIENCE):
            there: Findings = await step.look(Deadline(_PATIENCE))
    except Obstacle as error:
        return error.message
    except TimeoutError:
        return f"It took longer than {_PATIENCE:g} s to look at it."
    except OSError as error:
        return f"{error.strerror or error}"
    return f"There is {there}." if found and there else None

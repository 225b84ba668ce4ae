"""GPUs of a real host: who may open them, and what they were set to."""

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.baselines import Baselines
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_protocol.kinds import AllocationStart


class GpusOfHost:
    """`AllocatedGpus`, as far as the host's policy asks for it."""

    def __init__(
        self,
        policy: PolicySource,
        disk: DiskThread,
        baselines: Baselines,
        access: GpuAccess,
        readiness: Readiness,
    ) -> None:
        self._policy = policy
        self._disk = disk
        self._baselines = baselines
        self._access = access
        self._readiness = readiness

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        refused = await self._access.objection(arguments)
        if refused is None and await self._cleaning():
            refused = await self._baselines.objection(arguments.gpu_uuids)
        return refused or await self._readiness.objection(arguments)

    async def prepare(self, arguments: AllocationStart) -> None:
        # Once more: who died since it was asked begins again here.
        refused = await self._access.objection(arguments)
        if refused is not None:
            raise refused
        await self.add(arguments.allocation_id, arguments.gpu_uuids)

    async def add(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        if await self._cleaning():
            await self._baselines.record(allocation_id, gpu_uuids)

    async def _cleaning(self) -> bool:
        return (await self._disk(self._policy.read)).cleaning

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        await self._access.grant(account, gpu_uuids)

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        return await self._access.missing(account, gpu_uuids)

"""GPUs of a real host: who may open them, and what they were set to."""

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.baselines import Baselines
from remotegpu_protocol.kinds import AllocationStart


class GpusOfHost:
    """`AllocatedGpus`, as far as the host's policy asks for it."""

    def __init__(
        self, policy: PolicySource, disk: DiskThread, baselines: Baselines, access: GpuAccess
    ) -> None:
        self._policy = policy
        self._disk = disk
        self._baselines = baselines
        self._access = access

    async def admit(self, arguments: AllocationStart) -> None:
        await self._access.admit(arguments)

    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        if (await self._disk(self._policy.read)).cleaning:
            await self._baselines.record(allocation_id, gpu_uuids)

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        await self._access.grant(account, gpu_uuids)

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        return await self._access.missing(account, gpu_uuids)

"""What a host does with the GPUs of an allocation when it begins and changes."""

from typing import Final, Protocol

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.reclaim.baselines import Baselines


class AllocatedGpus(Protocol):
    """Everything may be done again, and raises CommandFailed where it cannot be done."""

    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """Before the allocation's account can reach these GPUs."""
        ...


class _Unattended:
    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """They are left as they are."""


#: Of a host that only pretends.
UNATTENDED: Final = _Unattended()


class GpusOfHost:
    """Where the policy says `cleaning = true`, what they are set to is noted, to be put back."""

    def __init__(self, policy: PolicySource, disk: DiskThread, baselines: Baselines) -> None:
        self._policy = policy
        self._disk = disk
        self._baselines = baselines

    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        if (await self._disk(self._policy.read)).cleaning:
            await self._baselines.record(allocation_id, gpu_uuids)

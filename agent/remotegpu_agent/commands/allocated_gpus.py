"""What a host does with the GPUs of an allocation when it begins and changes."""

from typing import Final, Protocol

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_protocol.kinds import AllocationStart


class AllocatedGpus(Protocol):
    """Everything may be done again, and raises CommandFailed where it cannot be done.

    `gpu_uuids` None: all of the host.
    """

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        """Why this host must not begin an allocation. Changes nothing of it."""
        ...

    async def prepare(self, arguments: AllocationStart) -> None:
        """Before the allocation's account can reach its GPUs."""
        ...

    async def add(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """Before the allocation's account can reach these GPUs, too."""
        ...

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        """The account is there, and may use what its allocation has, these among it."""
        ...

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        """What of it the account cannot use; None where nothing is amiss."""
        ...


class _Unattended:
    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        return None

    async def prepare(self, arguments: AllocationStart) -> None:
        """They are left as they are."""

    async def add(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """They are left as they are."""

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        """Nobody is there."""

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        return None


#: Of a host that only pretends.
UNATTENDED: Final = _Unattended()

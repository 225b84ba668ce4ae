"""What a host does with the GPUs of an allocation when it begins and changes."""

from typing import Final, Protocol

from remotegpu_protocol.kinds import AllocationStart


class AllocatedGpus(Protocol):
    """Everything may be done again, and raises CommandFailed where it cannot be done.

    `gpu_uuids` None: all of the host.
    """

    async def admit(self, arguments: AllocationStart) -> None:
        """Before anything is done for an allocation."""
        ...

    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """Before the allocation's account can reach these GPUs."""
        ...

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        """The account is there, and may use them from now on."""
        ...

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        """What of it the account cannot use; None where nothing is amiss."""
        ...


class _Unattended:
    async def admit(self, arguments: AllocationStart) -> None:
        """Whatever comes."""

    async def prepare(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """They are left as they are."""

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        """Nobody is there."""

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        return None


#: Of a host that only pretends.
UNATTENDED: Final = _Unattended()

"""The command that ends an allocation, on a host whose owner lets it be cleaned."""

import asyncio
from typing import Final, Protocol

from remotegpu_agent.accounts.subordinate import subordinate_ids
from remotegpu_agent.commands.allocations import AllocationStore, EndAllocation, Keeper
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import NOT_DONE, CommandFailed, Done, LookedUp, Report
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.baselines import Baselines, BaselineStore
from remotegpu_agent.reclaim.engine import Engine, Witness, nobody
from remotegpu_agent.reclaim.records import ReclaimRecord, ReclaimStore
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.reclaim.tenancy import Account, Tenancy, objection
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import AllocationEnd, CleanedSurface, CleaningReport
from remotegpu_protocol.surfaces import Surface


class Accounts(Protocol):
    """Who made which account for which allocation."""

    async def find(self, allocation_id: str) -> Account | None: ...

    async def was_never_made(self, allocation_id: str) -> bool:
        """Whether one was to be made, and the start came to nothing before: nobody ever signed in."""
        ...

    async def forget(self, allocation_id: str) -> None:
        """It is gone from the host. Called again after a crash."""
        ...


class _NoAccounts:
    async def find(self, allocation_id: str) -> Account | None:
        return None

    async def was_never_made(self, allocation_id: str) -> bool:
        return False

    async def forget(self, allocation_id: str) -> None:
        """None is known."""


NO_ACCOUNTS: Final = _NoAccounts()


class Reclaim(EndAllocation):
    """Cleans what the allocation's account left, and proves it.

    Where the policy does not say `cleaning = true`, or no account was made for the allocation,
    nothing is cleaned, and said so: what its user left cannot be told from other people's.
    """

    def __init__(
        self,
        store: AllocationStore,
        directory: StateDirectory,
        disk: DiskThread,
        policy: PolicySource,
        accounts: Accounts,
        source: GpuSource,
        *,
        access: GpuAccess | None = None,
        datasets: Datasets | None = None,
        witness: Witness = nobody,
    ) -> None:
        super().__init__(store, disk)
        self._kept = Keeper(store, disk)
        self._reclaims = ReclaimStore(directory)
        self._reserve = directory.reserve
        self._baselines = Baselines(BaselineStore(directory), disk, source)
        self._disk = disk
        self._policy = policy
        self._accounts = accounts
        self._source = source
        self._access = access or GpuAccess(directory, disk, policy)
        self._datasets = datasets or Datasets(MountStore(directory))
        self._witness = witness

    async def run(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        await self._kept.end(arguments.allocation_id)
        policy = await self._disk(self._policy.read)
        if not policy.cleaning:
            return await self._uncleaned(arguments, report)
        tenancy = await self._tenancy(arguments.allocation_id)
        if tenancy is None and await self._accounts.was_never_made(arguments.allocation_id):
            await self._uncleaned(arguments, report)
            return _NEVER_MADE
        if tenancy is None:
            await self._uncleaned(arguments, report)
            return _untold(
                "This host made no account for the allocation: what its user left cannot be told "
                "from other people's."
            )
        await self._write(tenancy, None)
        why_not = await asyncio.to_thread(objection, tenancy)
        if why_not is not None:
            result = CleaningReport(performed=True, items=[_unclear(why_not)])
        else:
            baseline = await self._baselines.find(arguments.allocation_id)
            steps = make_steps(
                tenancy, self._source, baseline, self._access, self._datasets, policy.scratch
            )
            result = await Engine(
                steps, make_room=self._reserve.make_room, witness=self._witness
            ).run(report)
        await self._write(tenancy, result)
        if result.verified:
            await self._forget(arguments.allocation_id)
        return result

    async def look_up(self, arguments: AllocationEnd) -> LookedUp:
        record = await self._record(arguments.allocation_id)
        if record is None:
            return await super().look_up(arguments)
        if record.report is None:
            # Every step may be done again.
            return NOT_DONE
        if record.report.verified:
            await self._forget(arguments.allocation_id)
        return Done(record.report)

    async def _tenancy(self, allocation_id: str) -> Tenancy | None:
        """As it was when cleaning began: half way through, the host knows the account no more."""
        record = await self._record(allocation_id)
        if record is not None:
            return record.tenancy
        account = await self._accounts.find(allocation_id)
        if account is None:
            return None
        allocation = await self._kept.find(allocation_id)
        further = await asyncio.to_thread(subordinate_ids, account.name, account.uid)
        if allocation is not None:
            # What was written down when it was made: the account may have been removed since.
            further = list(dict.fromkeys([*allocation.further, *further]))
        return Tenancy(
            allocation_id,
            account,
            None if allocation is None else allocation.gpu_uuids,
            further,
            allocation is not None and allocation.whole_machine,
        )

    async def _uncleaned(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        await self._baselines.forget(arguments.allocation_id)
        return await super().run(arguments, report)

    async def _forget(self, allocation_id: str) -> None:
        await self._accounts.forget(allocation_id)
        await self._baselines.forget(allocation_id)
        await self._kept.remove(allocation_id)

    async def _record(self, allocation_id: str) -> ReclaimRecord | None:
        try:
            return await self._disk(self._reclaims.find, allocation_id)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def _write(self, tenancy: Tenancy, result: CleaningReport | None) -> None:
        try:
            if result is None:
                await self._disk(self._reclaims.begin, tenancy)
            else:
                await self._disk(self._reclaims.finish, tenancy, result)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None


#: Of a start that failed before anybody could sign in.
_NEVER_MADE: Final = CleaningReport(
    performed=True,
    verified=True,
    items=[
        CleanedSurface(
            *(Surface.ACCOUNT, "none"),
            found=0,
            removed=0,
            verified=True,
            detail="No account was made for the allocation, so nobody signed in.",
        )
    ],
)


def _unclear(reason: str) -> CleanedSurface:
    return CleanedSurface(
        Surface.ACCOUNT, "none", found=0, removed=0, verified=False, detail=reason
    )


def _untold(reason: str) -> CleaningReport:
    return CleaningReport(performed=False, items=[_unclear(reason)])

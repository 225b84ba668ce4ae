"""Which account was made for which allocation, for whoever cleans up."""

import asyncio

from remotegpu_agent.accounts.accounts import find_made
from remotegpu_agent.commands.allocations import AllocationStore, Keeper
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.reclaim.tenancy import Account


class AllocationAccounts:
    """By the record of the allocation, and what the host's account database says."""

    def __init__(self, store: AllocationStore, disk: DiskThread) -> None:
        self._kept = Keeper(store, disk)

    async def find(self, allocation_id: str) -> Account | None:
        allocation = await self._kept.find(allocation_id)
        if allocation is None or allocation.account is None:
            return None
        found = await asyncio.to_thread(find_made, allocation.account)
        return None if found is None else Account(found.pw_name, found.pw_uid, found.pw_dir)

    async def forget(self, allocation_id: str) -> None:
        """The record of the allocation goes, and the account with it."""

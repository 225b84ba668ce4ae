"""Which account was made for which allocation, for whoever cleans up."""

import asyncio

from remotegpu_agent.accounts.accounts import HOMES, find_account, find_made, is_there
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
        name, uid = allocation.account, allocation.uid
        found = await asyncio.to_thread(find_made, name)
        if found is None and uid is not None:
            found = await asyncio.to_thread(find_account, name, uid)
            if found is None:
                # Somebody has removed it: what it left is there all the same, under its user id.
                return Account(name, uid, str(HOMES / name))
        return None if found is None else Account(found.pw_name, found.pw_uid, found.pw_dir)

    async def was_never_made(self, allocation_id: str) -> bool:
        allocation = await self._kept.find(allocation_id)
        if allocation is None or allocation.account is None or allocation.uid is not None:
            return False
        return not await asyncio.to_thread(is_there, allocation.account)

    async def forget(self, allocation_id: str) -> None:
        """The record of the allocation goes, and the account with it."""

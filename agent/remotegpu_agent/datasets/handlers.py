"""The commands that mount a data set for an allocation, and unmount it."""

import asyncio
from pathlib import Path

from remotegpu_agent.accounts.accounts import find_made
from remotegpu_agent.commands.allocations import AllocationStore, Keeper
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import (
    NOT_DONE,
    CommandFailed,
    Done,
    Handler,
    LookedUp,
    Report,
)
from remotegpu_agent.commands.policy import LocalPolicy, PolicySource
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.datasets.sources import source_of
from remotegpu_protocol.kinds import (
    DATASET_MOUNT,
    DATASET_UNMOUNT,
    DatasetMount,
    DatasetUnmount,
    Nothing,
)


class MountDataset(Handler[DatasetMount]):
    """For the account that this agent made for the allocation, and for no other."""

    kind = DATASET_MOUNT

    def __init__(
        self,
        datasets: Datasets,
        store: AllocationStore,
        disk: DiskThread,
        policy: PolicySource,
        state: Path,
    ) -> None:
        self._datasets = datasets
        self._kept = Keeper(store, disk)
        self._disk = disk
        self._policy = policy
        self._state = state

    async def run(self, arguments: DatasetMount, report: Report) -> Nothing:
        await report(Progress("looking for the source"))
        record = await self._record(arguments)
        policy = await self._disk(self._policy.read)
        if not policy.cleaning:
            raise CommandFailed(
                "NOT_ALLOWED",
                f"The policy of this host, {policy.source}, does not say cleaning = true: nothing "
                "would unmount the data set when the allocation ends.",
            )
        source = source_of(record, policy, self._state)
        known = await asyncio.to_thread(self._datasets.find, record.mount_id)
        if known is not None and known != record:
            raise CommandFailed(
                "MOUNT_EXISTS",
                f"The mount {record.mount_id} is of {known.location} at {known.path}. Unmount it "
                "first.",
            )
        if known is not None:
            if await asyncio.to_thread(self._datasets.is_whole, record, source):
                return Nothing()
            await asyncio.to_thread(self._datasets.unmount, known)
        await asyncio.to_thread(self._datasets.check, record)
        await source.check()
        await report(Progress("mounting"))
        await asyncio.to_thread(self._datasets.mount, record, source)
        return Nothing()

    async def look_up(self, arguments: DatasetMount) -> LookedUp:
        known = await asyncio.to_thread(self._datasets.find, arguments.mount_id)
        if known is None or known != _record(arguments, known.uid, known.gid):
            return NOT_DONE
        # What the policy says by now decides whether it is done again, not whether it was done.
        source = source_of(known, LocalPolicy(), self._state)
        if await asyncio.to_thread(self._datasets.is_whole, known, source):
            return Done(Nothing())
        # Half of it is worse than nothing: it may not be done again, where it is too late by now.
        await asyncio.to_thread(self._datasets.unmount, known)
        return NOT_DONE

    async def _record(self, arguments: DatasetMount) -> MountRecord:
        allocation = await self._kept.find(arguments.allocation_id)
        if allocation is None:
            raise CommandFailed(
                "NO_SUCH_ALLOCATION",
                f"This host has no allocation {arguments.allocation_id}: it was never started here,"
                " or has ended.",
            )
        found = await asyncio.to_thread(find_made, arguments.account)
        if allocation.account != arguments.account or found is None:
            raise CommandFailed(
                "NOT_ITS_ACCOUNT",
                f"{arguments.account} is not the account that this host made for allocation "
                f"{arguments.allocation_id}. Data sets are mounted for that one only.",
            )
        return _record(arguments, found.pw_uid, found.pw_gid)


class UnmountDataset(Handler[DatasetUnmount]):
    kind = DATASET_UNMOUNT

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    async def run(self, arguments: DatasetUnmount, report: Report) -> Nothing:
        await report(Progress("unmounting"))
        known = await asyncio.to_thread(self._datasets.find, arguments.mount_id)
        if known is None:
            # It has been, or has never come: what is wanted holds.
            return Nothing()
        if known.allocation_id != arguments.allocation_id:
            raise CommandFailed(
                "NOT_ITS_MOUNT",
                f"The mount {known.mount_id} is allocation {known.allocation_id}'s, not "
                f"{arguments.allocation_id}'s.",
            )
        await asyncio.to_thread(self._datasets.unmount, known)
        return Nothing()

    async def look_up(self, arguments: DatasetUnmount) -> LookedUp:
        known = await asyncio.to_thread(self._datasets.find, arguments.mount_id)
        if known is None:
            return Done(Nothing())
        if known.allocation_id != arguments.allocation_id:
            return NOT_DONE
        if not await asyncio.to_thread(self._datasets.is_begun_to_go, known):
            return NOT_DONE
        # Whoever used it has lost it already: to its end, even where it is too late by now.
        await asyncio.to_thread(self._datasets.unmount, known)
        return Done(Nothing())


def _record(arguments: DatasetMount, uid: int, gid: int) -> MountRecord:
    return MountRecord(
        arguments.mount_id,
        arguments.allocation_id,
        arguments.account,
        uid,
        gid,
        arguments.kind,
        arguments.location,
        arguments.path,
        arguments.read_only,
        arguments.endpoint,
    )

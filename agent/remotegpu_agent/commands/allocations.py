"""Who has this host or GPUs of it, as the control plane said; and the commands that say so."""

import asyncio
from typing import Final

import msgspec
from msgspec import Struct, structs

from remotegpu_agent.accounts.accounts import Accounts
from remotegpu_agent.accounts.ids import IdLedger
from remotegpu_agent.accounts.subordinate import subordinate_ids
from remotegpu_agent.accounts.tasks import SHARED, WHOLE
from remotegpu_agent.commands.account_keys import accounts_of
from remotegpu_agent.commands.allocated_gpus import UNATTENDED, AllocatedGpus
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import (
    NOT_DONE,
    CommandFailed,
    Done,
    Handler,
    LookedUp,
    Report,
)
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    ALLOCATION_UPDATE,
    AllocationEnd,
    AllocationStart,
    AllocationUpdate,
    CleaningReport,
    Nothing,
)
from remotegpu_protocol.limits import MAX_GPUS

_FILE: Final = "allocations.json"

_TAKEN: Final = "ALREADY_ALLOCATED"
#: Further looks at what is in the way of a start, and seconds between them.
_LOOKS: Final = 10
_PAUSE: Final = 0.2

#: Far more than GPUs: what was never ended, because a control plane forgot it, must not add up.
MAX_ALLOCATIONS: Final = 16 * MAX_GPUS


class Allocation(Struct, frozen=True):
    """`ends_at` in milliseconds on the control plane's clock. `uid` and `further`: the user id of the
    account and its ranges of subordinate ids (first, how many), from when it is made. `ended`: this
    host was told that it is over, and has not proven yet that it is clean."""

    id: str
    username: str
    whole_machine: bool
    gpu_uuids: list[str]
    ends_at: int
    account: str | None = None
    uid: int | None = None
    further: list[tuple[int, int]] = []
    ended: bool = False


class AllocationStore:
    """The allocations of this host, in one small file that is replaced in one step."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def load(self) -> dict[str, Allocation]:
        """Raises StateDirectoryError: it cannot be read, or is damaged."""
        content = self._directory.read(_FILE)
        if content is None:
            return {}
        try:
            found = msgspec.json.decode(content, type=list[Allocation])
        except msgspec.MsgspecError:
            raise StateDirectoryError(
                f"{self._directory.path / _FILE} is damaged. Look at what runs on the host, and "
                "move the file away."
            ) from None
        return {allocation.id: allocation for allocation in found}

    def put(self, allocation: Allocation) -> None:
        """Keep it, durably, in place of the one with the same id."""
        found = self.load()
        found[allocation.id] = allocation
        if len(found) > MAX_ALLOCATIONS:
            raise StateDirectoryError(
                f"This host keeps {MAX_ALLOCATIONS} allocations already. End those that are over."
            )
        self._save(found)

    def remove(self, allocation_id: str) -> None:
        found = self.load()
        if found.pop(allocation_id, None) is not None:
            self._save(found)

    def _save(self, allocations: dict[str, Allocation]) -> None:
        content = msgspec.json.encode(list(allocations.values()))
        self._directory.write(_FILE, msgspec.json.format(content) + b"\n")


class Keeper:
    """The store as handlers use it: on the disk's thread, its errors as theirs."""

    def __init__(self, store: AllocationStore, disk: DiskThread) -> None:
        self._store = store
        self._disk = disk

    async def find(self, allocation_id: str) -> Allocation | None:
        try:
            return (await self._disk(self._store.load)).get(allocation_id)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def put(self, allocation: Allocation) -> None:
        try:
            await self._disk(self._store.put, allocation)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def remove(self, allocation_id: str) -> None:
        try:
            await self._disk(self._store.remove, allocation_id)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def end(self, allocation_id: str) -> None:
        """This host was told that it is over: from now on it keeps no other from starting."""
        found = await self.find(allocation_id)
        if found is not None and not found.ended:
            await self.put(structs.replace(found, ended=True))

    async def overlap(self, wanted: Allocation) -> CommandFailed | None:
        """Why an allocation cannot have what it is to have: another has some of it, and this host was
        not told that it is over. None when nothing is in its way."""
        try:
            known = await self._disk(self._store.load)
        except StateDirectoryError as error:
            return CommandFailed(error.code, error.message)
        for other in known.values():
            if other.id != wanted.id and not other.ended and _overlap(wanted, other):
                return CommandFailed(
                    _TAKEN,
                    f"{other.username} has {_what(other)} here, by allocation {other.id}, and this "
                    "host was not told that it is over: release that one first.",
                )
        return None

    async def wait_for(self, wanted: Allocation) -> CommandFailed | None:
        """`overlap`, after an end that came just before had the time to be noted."""
        found = await self.overlap(wanted)
        for _ in range(_LOOKS):
            if found is None or found.code != _TAKEN:
                break
            await asyncio.sleep(_PAUSE)
            found = await self.overlap(wanted)
        return found


class StartAllocation(Handler[AllocationStart]):
    kind = ALLOCATION_START

    def __init__(
        self,
        store: AllocationStore,
        disk: DiskThread,
        policy: PolicySource | None = None,
        gpus: AllocatedGpus = UNATTENDED,
        ids: IdLedger | None = None,
    ) -> None:
        self._kept = Keeper(store, disk)
        self._policy = policy
        self._gpus = gpus
        self._ids = ids

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        overlap = await self._kept.wait_for(_allocation(arguments, None))
        return overlap or await self._gpus.objection(arguments)

    async def run(self, arguments: AllocationStart, report: Report) -> Nothing:
        await report(Progress("recording the allocation"))
        accounts = await self._accounts(arguments)
        # First, so that the end of it knows which account to look for.
        await self._kept.put(_allocation(arguments, accounts))
        await self._gpus.prepare(arguments)
        if accounts is not None and arguments.account is not None:
            await report(Progress("making the account"))
            uid = await asyncio.to_thread(
                accounts.ensure,
                arguments.account,
                arguments.keys,
                tasks=WHOLE if arguments.whole_machine else SHARED,
            )
            further = await asyncio.to_thread(subordinate_ids, arguments.account, uid)
            made = structs.replace(_allocation(arguments, accounts), uid=uid, further=further)
            await self._kept.put(made)
            await self._gpus.grant(arguments.account, _gpus_of(made))
        return Nothing()

    async def look_up(self, arguments: AllocationStart) -> LookedUp:
        accounts = await self._accounts(arguments)
        wanted = _allocation(arguments, accounts)
        found = await self._kept.find(arguments.allocation_id)
        if found is None or structs.replace(found, uid=None, further=[]) != wanted:
            return NOT_DONE
        if accounts is None or arguments.account is None:
            return Done(Nothing())
        has = await asyncio.to_thread(accounts.has, arguments.account, arguments.keys)
        if not has or found.uid is None:
            return NOT_DONE
        if await self._gpus.missing(arguments.account, _gpus_of(wanted)) is not None:
            return NOT_DONE
        return Done(Nothing())

    async def _accounts(self, arguments: AllocationStart) -> Accounts | None:
        """None where none is asked for, or the host's policy has none made: it is recorded only."""
        if arguments.account is None or self._policy is None:
            return None
        return await accounts_of(self._policy, self._ids)


class UpdateAllocation(Handler[AllocationUpdate]):
    kind = ALLOCATION_UPDATE

    def __init__(
        self, store: AllocationStore, disk: DiskThread, gpus: AllocatedGpus = UNATTENDED
    ) -> None:
        self._kept = Keeper(store, disk)
        self._gpus = gpus

    async def objection(self, arguments: AllocationUpdate) -> CommandFailed | None:
        found = await self._kept.find(arguments.allocation_id)
        return None if found is None else await self._kept.overlap(_updated(found, arguments))

    async def run(self, arguments: AllocationUpdate, report: Report) -> Nothing:
        await report(Progress("recording the change"))
        found = await self._kept.find(arguments.allocation_id)
        if found is None:
            raise CommandFailed(
                "NO_SUCH_ALLOCATION",
                f"This host has no allocation {arguments.allocation_id}: it was never started here,"
                " or has ended.",
            )
        updated = _updated(found, arguments)
        # A card that fell off its bus since is no reason to refuse a later end.
        new = frozenset(arguments.gpu_uuids) - frozenset(found.gpu_uuids)
        try:
            await self._gpus.add(found.id, sorted(new))
        finally:
            # Whether or not that is known of them, they are part of what is cleaned at its end.
            await self._kept.put(updated)
        if updated.account is not None:
            await self._gpus.grant(updated.account, None if found.whole_machine else new)
        return Nothing()

    async def look_up(self, arguments: AllocationUpdate) -> LookedUp:
        found = await self._kept.find(arguments.allocation_id)
        if found is None or found != _updated(found, arguments):
            return NOT_DONE
        return Done(Nothing())


class EndAllocation(Handler[AllocationEnd]):
    """Cleans nothing, and says so: the machine must not go to the next user by itself."""

    kind = ALLOCATION_END

    def __init__(self, store: AllocationStore, disk: DiskThread) -> None:
        self._kept = Keeper(store, disk)

    async def run(self, arguments: AllocationEnd, report: Report) -> CleaningReport:
        await report(Progress("removing the record of the allocation"))
        # One that was never here is ended too.
        await self._kept.remove(arguments.allocation_id)
        return self.cleaning()

    async def look_up(self, arguments: AllocationEnd) -> LookedUp:
        found = await self._kept.find(arguments.allocation_id)
        return Done(self.cleaning()) if found is None else NOT_DONE

    def cleaning(self) -> CleaningReport:
        return CleaningReport(performed=False)


def _allocation(arguments: AllocationStart, accounts: Accounts | None) -> Allocation:
    return Allocation(
        arguments.allocation_id,
        arguments.username,
        arguments.whole_machine,
        arguments.gpu_uuids,
        arguments.ends_at,
        None if accounts is None else arguments.account,
    )


def _gpus_of(allocation: Allocation) -> frozenset[str] | None:
    """None: all of the host, those that are found later among them."""
    return None if allocation.whole_machine else frozenset(allocation.gpu_uuids)


def _overlap(one: Allocation, other: Allocation) -> bool:
    whole = one.whole_machine or other.whole_machine
    return whole or not set(one.gpu_uuids).isdisjoint(other.gpu_uuids)


def _what(allocation: Allocation) -> str:
    return "the whole host" if allocation.whole_machine else ", ".join(allocation.gpu_uuids)


def _updated(allocation: Allocation, arguments: AllocationUpdate) -> Allocation:
    return structs.replace(allocation, gpu_uuids=arguments.gpu_uuids, ends_at=arguments.ends_at)

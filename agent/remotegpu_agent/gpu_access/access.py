"""Keeping device files as allocations want them, while they come and go."""

import asyncio
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from remotegpu_agent.accounts.accounts import find_made
from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.policy import LocalPolicy, PolicySource
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.gpu_access.permissions import (
    Holder,
    Permissions,
    entries_of,
    objection,
    remove_entries,
)
from remotegpu_agent.reclaim.records import ReclaimStore
from remotegpu_agent.reclaim.step import Obstacle
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import GpuIsolation, IsolationKind
from remotegpu_protocol.kinds import AllocationStart

Result = TypeVar("Result")

_log = structlog.get_logger("remotegpu_agent")

#: Seconds between two looks: device files come and go with the driver, its cards and MIG.
INTERVAL: Final = 5.0
#: Seconds that the driver may take to say which file is which card's.
_PATIENCE: Final = 10.0

_NOT_ASKED: Final = GpuIsolation(
    IsolationKind.NONE,
    "The policy of this host does not say gpu_permissions = true: every account on it can open "
    "every GPU.",
)


class GpuAccess:
    """Where the host's policy says `gpu_permissions = true`. Else nothing is touched."""

    def __init__(
        self,
        directory: StateDirectory,
        disk: DiskThread,
        policy: PolicySource,
        nodes: DeviceNodes | None = None,
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._allocations = AllocationStore(directory)
        self._reclaims = ReclaimStore(directory)
        self._disk = disk
        self._policy = policy
        self._nodes = nodes or DeviceNodes()
        self._interval = interval
        self._turn = asyncio.Lock()
        #: A look that has not come back: the driver hangs.
        self._hung: asyncio.Future[Any] | None = None
        self._trouble: str | None = None

    async def run(self) -> None:
        """Look now and again, until cancelled."""
        while True:
            await self.settle()
            await asyncio.sleep(self._interval)

    async def settle(self) -> GpuIsolation:
        """Have device files say what allocations say, and tell how well that keeps them apart."""
        policy = await self._disk(self._policy.read)
        if not policy.gpu_permissions:
            return _NOT_ASKED
        try:
            async with self._turn:
                why_not = await self._work(lambda: objection(self._nodes.parameters()))
                if why_not is None:
                    holders = await self._holders()
                    permissions = self._permissions(policy)
                    changed = await self._work(lambda: permissions.settle(holders))
                    if changed:
                        _log.info("gpu permissions", changed=[str(path) for path in changed])
        except (OSError, TimeoutError, StateDirectoryError) as error:
            why_not = f"The GPUs' device files cannot be kept: {_words(error)}"
        if why_not != self._trouble:
            self._trouble = why_not
            if why_not is not None:
                _log.warning("gpu permissions not kept", reason=why_not)
        if why_not is None:
            return GpuIsolation(IsolationKind.DEVICE_ACL)
        return GpuIsolation(IsolationKind.WHOLE_MACHINE_ONLY, clean_text(why_not, 2000))

    async def objection(self, arguments: AllocationStart) -> CommandFailed | None:
        """Where an allocation would have to be kept apart from others here, and cannot be."""
        isolation = await self.settle()
        if isolation.kind is not IsolationKind.WHOLE_MACHINE_ONLY or arguments.whole_machine:
            return None
        return CommandFailed(
            "GPU_PERMISSIONS", f"This host can only be allocated as a whole. {isolation.reason}"
        )

    async def grant(self, account: str, gpu_uuids: frozenset[str] | None) -> None:
        """After the account was made; `gpu_uuids` None: all of the host. Done again, it changes
        nothing.

        Raises:
            CommandFailed: the account cannot open what it has.
        """
        await self.settle()
        missing = await self.missing(account, gpu_uuids)
        if missing:
            raise CommandFailed(
                "GPU_PERMISSIONS", f"The account {account} cannot open its GPUs: {missing}."
            )

    async def missing(self, account: str, gpu_uuids: frozenset[str] | None) -> str | None:
        """What of its GPUs the account cannot open; None where nothing is amiss."""
        policy = await self._disk(self._policy.read)
        if not policy.gpu_permissions:
            return None
        holder = await self._holder(account, gpu_uuids)
        if holder is None:
            return f"this host has no account {account}"
        permissions = self._permissions(policy)
        try:
            async with self._turn:
                missing = await self._work(lambda: permissions.missing(holder))
        except (OSError, TimeoutError) as error:
            return _words(error)
        return "; ".join(missing) or None

    async def entries(self, tenancy: Tenancy) -> list[str]:
        """Device files that let the tenancy's account in by name, whatever the policy says.

        Raises Obstacle: nobody can tell.
        """
        return [str(path) for path in await self._by_name(tenancy)]

    async def take_back(self, tenancy: Tenancy) -> None:
        """Raises Obstacle: a device file does not take it."""
        paths = await self._by_name(tenancy)
        try:
            async with self._turn:
                await self._work(lambda: remove_entries(paths, tenancy.owns))
        except (OSError, TimeoutError) as error:
            raise Obstacle(_words(error)) from None

    @property
    def devices(self) -> DeviceNodes:
        return self._nodes

    async def _by_name(self, tenancy: Tenancy) -> list[Path]:
        try:
            # In turn: what began before the cleaning must not put a name back after it.
            async with self._turn:
                return await self._work(lambda: list(entries_of(self._nodes, tenancy.owns)))
        except (OSError, TimeoutError) as error:
            raise Obstacle(_words(error)) from None

    async def _holders(self) -> list[Holder]:
        """Of allocations whose account exists, and whose end has not begun."""
        allocations = await self._disk(self._allocations.load)
        ending = await self._disk(self._reclaims.unproven)
        found = []
        for allocation in allocations.values():
            if allocation.account is None or allocation.id in ending:
                continue
            uuids = None if allocation.whole_machine else frozenset(allocation.gpu_uuids)
            holder = await self._holder(allocation.account, uuids)
            if holder is not None:
                found.append(holder)
        return found

    async def _holder(self, account: str, gpu_uuids: frozenset[str] | None) -> Holder | None:
        found = await asyncio.to_thread(find_made, account)
        return None if found is None else Holder(found.pw_uid, gpu_uuids)

    def _permissions(self, policy: LocalPolicy) -> Permissions:
        def ours(uid: int) -> bool:
            return uid in policy.account_uids or _is_made(uid)

        return Permissions(self._nodes, ours)

    async def _work(self, work: Callable[[], Result]) -> Result:
        """In a thread, since the driver may hang; one that does is left alone, and waited for
        before another begins."""
        if self._hung is not None and not self._hung.done():
            raise TimeoutError
        task = asyncio.ensure_future(asyncio.to_thread(work))
        done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
        if not done:
            self._hung = task
            raise TimeoutError
        return task.result()


def _is_made(uid: int) -> bool:
    try:
        return find_made(pwd.getpwuid(uid).pw_name) is not None
    except KeyError:
        return False


def _words(error: OSError | TimeoutError | StateDirectoryError) -> str:
    if isinstance(error, TimeoutError):
        return f"The NVIDIA driver did not answer within {_PATIENCE:g} s."
    if isinstance(error, StateDirectoryError):
        return error.message
    return clean_text(f"{error.filename or 'device files'}: {error.strerror or error}", 500)

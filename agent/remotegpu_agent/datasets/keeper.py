"""Mounting again what a boot or the end of a client took away while its allocation goes on."""

import asyncio
from typing import Final

import structlog

from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.policy import LocalPolicy, PolicySource
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.datasets.sources import source_of
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.reclaim.records import ReclaimStore
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import DATASET_MOUNT

_log = structlog.get_logger("remotegpu_agent")

#: Seconds between two looks.
INTERVAL: Final = 30.0


class DatasetKeeper:
    """Looks at what is recorded, and mounts what is missing if the host's policy still allows it.

    Nothing of an allocation that is not here any more, or that is being cleaned.
    """

    def __init__(
        self,
        datasets: Datasets,
        directory: StateDirectory,
        disk: DiskThread,
        policy: PolicySource,
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._datasets = datasets
        self._directory = directory
        self._allocations = AllocationStore(directory)
        self._reclaims = ReclaimStore(directory)
        self._disk = disk
        self._policy = policy
        self._interval = interval
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Look now and again, until cancelled."""
        while True:
            await self.settle()
            await asyncio.sleep(self._interval)

    async def settle(self) -> None:
        """Have mounted what should be; what cannot be is logged, once, and tried again later."""
        policy = await self._disk(self._policy.read)
        if DATASET_MOUNT.name not in policy.commands or not policy.cleaning:
            return
        try:
            records = await self._disk(self._wanted)
        except StateDirectoryError as error:
            self._say("", error.message)
            return
        for gone in self._said.keys() - {record.mount_id for record in records}:
            del self._said[gone]
        for record in records:
            await self._keep(record, policy)

    async def _keep(self, record: MountRecord, policy: LocalPolicy) -> None:
        source = source_of(record, policy, self._directory.path)
        try:
            if await asyncio.to_thread(self._datasets.is_whole, record, source):
                self._said.pop(record.mount_id, None)
                return
            await source.check()
            if await asyncio.to_thread(self._datasets.mount_again, record, source):
                _log.warning("data set mounted again", mount=record.mount_id, path=record.path)
        except CommandFailed as error:
            self._say(record.mount_id, error.message)

    def _wanted(self) -> list[MountRecord]:
        records = self._datasets.all()
        if not records:
            return []
        here = self._allocations.load()
        return [
            record
            for record in records
            if record.allocation_id in here and self._reclaims.find(record.allocation_id) is None
        ]

    def _say(self, mount_id: str, reason: str) -> None:
        if self._said.get(mount_id) != reason:
            self._said[mount_id] = reason
            _log.error("data set not mounted", mount=mount_id or None, reason=reason)

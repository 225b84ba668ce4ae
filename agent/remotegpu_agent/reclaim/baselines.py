"""What an allocation's GPUs were set to before it had them."""

from typing import Final

import msgspec

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.sources.settings import GpuSettings, SettingsRequest
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory

_FILE: Final = "gpu_baselines.json"

#: Of an allocation, by the GPU's UUID.
Baseline = dict[str, GpuSettings]


class BaselineStore:
    """One small file. Everything raises StateDirectoryError: it is damaged, or the disk does not
    take it."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def check(self) -> None:
        """Raises StateDirectoryError when it cannot be read."""
        self._load()

    def find(self, allocation_id: str) -> Baseline:
        return self._load().get(allocation_id, {})

    def add(self, allocation_id: str, baseline: Baseline) -> None:
        """What is known of a GPU already stays: it was read before anybody could set it."""
        found = self._load()
        found[allocation_id] = baseline | found.get(allocation_id, {})
        self._save(found)

    def remove(self, allocation_id: str) -> None:
        found = self._load()
        if found.pop(allocation_id, None) is not None:
            self._save(found)

    def _load(self) -> dict[str, Baseline]:
        content = self._directory.read(_FILE)
        if content is None:
            return {}
        try:
            return msgspec.json.decode(content, type=dict[str, Baseline])
        except msgspec.MsgspecError:
            raise StateDirectoryError(
                f"{self._directory.path / _FILE} is damaged. Look at what the GPUs are set to, and "
                "move the file away."
            ) from None

    def _save(self, baselines: dict[str, Baseline]) -> None:
        self._directory.write(_FILE, msgspec.json.format(msgspec.json.encode(baselines)) + b"\n")


class Baselines:
    """The store as handlers use it, and where it is filled from."""

    def __init__(self, store: BaselineStore, disk: DiskThread, source: GpuSource) -> None:
        self._store = store
        self._disk = disk
        self._source = source

    async def objection(self, gpu_uuids: list[str]) -> CommandFailed | None:
        """A GPU that could not be given back as it was must not be given out."""
        if not gpu_uuids:
            return None
        reply = await self._source.tune(SettingsRequest(gpu_uuids))
        return next((_unreadable(uuid, why) for uuid, why in reply.failed.items()), None)

    async def record(self, allocation_id: str, gpu_uuids: list[str]) -> None:
        """Before the allocation's account can reach them; done again, it changes nothing.

        Raises:
            CommandFailed: one of them does not tell, or the disk does not take it.
        """
        known = await self.find(allocation_id)
        unknown = [uuid for uuid in gpu_uuids if uuid not in known]
        if not unknown:
            return
        reply = await self._source.tune(SettingsRequest(unknown))
        for uuid, why in reply.failed.items():
            raise _unreadable(uuid, why)
        try:
            await self._disk(self._store.add, allocation_id, reply.settings)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def find(self, allocation_id: str) -> Baseline:
        try:
            return await self._disk(self._store.find, allocation_id)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None

    async def forget(self, allocation_id: str) -> None:
        try:
            await self._disk(self._store.remove, allocation_id)
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None


def _unreadable(uuid: str, why: str) -> CommandFailed:
    return CommandFailed("GPU_SETTINGS", f"What {uuid} is set to cannot be read: {why}")

"""What is mounted for whom, written down before anything is mounted."""

import threading
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.datasets import SourceKind

_FILE: Final = "mounts.json"

#: Of one host. The file stays below what the state directory reads.
MAX_MOUNTS: Final = 256
#: Below this the agent mounts; root's, and nothing that anybody else can write to.
ROOT: Final = Path("/run/remotegpu/mounts")


class MountRecord(Struct, frozen=True, omit_defaults=True):
    """One mount. `path`: the link by which its user finds it."""

    mount_id: str
    allocation_id: str
    account: str
    uid: int
    gid: int
    kind: SourceKind
    location: str
    path: str
    read_only: bool
    endpoint: str | None = None

    @property
    def home(self) -> Path:
        """The directory that holds the account's mounts, and lets nobody else through."""
        return ROOT / self.account

    @property
    def place(self) -> Path:
        """Where the source is mounted."""
        return self.home / self.mount_id


class _File(Struct, frozen=True):
    mounts: list[MountRecord] = []
    #: Directories on the way to links that were made for them, to be removed when empty.
    directories: list[str] = []


class MountStore:
    """One small file, replaced in one step. Everything raises StateDirectoryError: it is damaged,
    or the disk does not take it. May be used from several threads."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def find(self, mount_id: str) -> MountRecord | None:
        return next((one for one in self.all() if one.mount_id == mount_id), None)

    def all(self) -> list[MountRecord]:
        with self._lock:
            return self._load().mounts

    def put(self, record: MountRecord) -> None:
        """Keep it, durably, in place of the one with the same id."""
        with self._lock:
            found = self._load()
            mounts = [one for one in found.mounts if one.mount_id != record.mount_id]
            if len(mounts) >= MAX_MOUNTS:
                raise StateDirectoryError(
                    f"This host has {MAX_MOUNTS} data sets mounted already. Unmount some."
                )
            self._save(_File([*mounts, record], found.directories))

    def remove(self, mount_id: str) -> None:
        with self._lock:
            found = self._load()
            mounts = [one for one in found.mounts if one.mount_id != mount_id]
            if len(mounts) != len(found.mounts):
                self._save(_File(mounts, found.directories))

    def directories(self) -> list[str]:
        with self._lock:
            return self._load().directories

    def put_directories(self, directories: list[str]) -> None:
        with self._lock:
            found = self._load()
            if directories != found.directories:
                self._save(_File(found.mounts, directories))

    def _load(self) -> _File:
        content = self._directory.read(_FILE)
        if content is None:
            return _File()
        try:
            return msgspec.json.decode(content, type=_File)
        except msgspec.MsgspecError:
            raise StateDirectoryError(
                f"{self._directory.path / _FILE} is damaged. Look at what is mounted below {ROOT}, "
                "unmount it, and move the file away."
            ) from None

    def _save(self, file: _File) -> None:
        self._directory.write(_FILE, msgspec.json.format(msgspec.json.encode(file)) + b"\n")

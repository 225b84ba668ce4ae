"""Mounting data sets and unmounting them, so that a crash at any moment leaves what can be undone.

First the record, then the place, the mount and the link; back in the opposite order, and the record
goes last. Nothing here awaits: callers use a thread.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets import links
from remotegpu_agent.datasets.clients import clients_below
from remotegpu_agent.datasets.parents import missing_parents, opened_parent
from remotegpu_agent.datasets.records import ROOT, MountRecord, MountStore
from remotegpu_agent.datasets.s3 import CLIENT, Bucket
from remotegpu_agent.datasets.source import Source
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.mount_table import is_hosts_view, mounted_at, mounted_below
from remotegpu_agent.mounting import detach
from remotegpu_protocol.datasets import SourceKind
from remotegpu_protocol.grammar import clean_text

_log = structlog.get_logger("remotegpu_agent")

#: Told what was just done, so that tests can kill the agent there.
Witness = Callable[[str], None]


def nobody(_moment: str) -> None:
    """The witness of an agent that is not under test."""


#: Accounts that are worked on at the same time, at most.
_TURNS: Final = 64
#: Mounts at one place that are taken away before it is given up.
_MAX_LAYERS: Final = 16


class Datasets:
    """All raise CommandFailed, with what was expected, what came, and what to do."""

    def __init__(self, store: MountStore, *, witness: Witness = nobody) -> None:
        self._store = store
        self._witness = witness
        # One thing at a time for each account: commands, cleaning and the keeper know nothing of
        # each other.
        self._turns = [threading.RLock() for _ in range(_TURNS)]
        # Of the links of all accounts, whose parents may be the same.
        self._linking = threading.Lock()

    def find(self, mount_id: str) -> MountRecord | None:
        with _translated():
            return self._store.find(mount_id)

    def all(self) -> list[MountRecord]:
        """Raises StateDirectoryError: the records cannot be read."""
        return self._store.all()

    def of(self, account: str) -> list[MountRecord]:
        with _translated():
            return [one for one in self._store.all() if one.account == account]

    def check(self, record: MountRecord) -> None:
        """That the host may mount it at its path. Changes nothing."""
        _check_view()
        path = Path(record.path)
        with _translated():
            sources = [
                Path(one.location)
                for one in (record, *self._store.all())
                if one.kind is SourceKind.DIRECTORY
            ]
            if any(source == path or source in path.parents for source in sources):
                raise CommandFailed(
                    "PATH_IN_SOURCE",
                    f"{path} lies within a data set of this host. Choose a path elsewhere.",
                )
            links.check_free(path, record.place)

    def mount(self, record: MountRecord, source: Source) -> None:
        """Have it mounted; what fails is undone."""
        with self._turn(record.account), _translated():
            self._store.put(record)
            self._witness("recorded")
            try:
                self._assemble(record, source)
            except BaseException:
                self._undo(record)
                raise

    def mount_again(self, record: MountRecord, source: Source) -> bool:
        """Whether something was missing of a mount that is recorded, and is there now. What fails
        leaves nothing mounted, and the record for the next attempt."""
        _check_view()
        with self._turn(record.account), _translated():
            if self._store.find(record.mount_id) != record or self.is_whole(record, source):
                return False
            self._take_away(record)
            try:
                self._assemble(record, source)
            except BaseException:
                self._take_away(record)
                raise
        return True

    def is_whole(self, record: MountRecord, source: Source) -> bool:
        """Whether everything that `mount` does is there."""
        with _translated():
            if self._store.find(record.mount_id) != record:
                return False
        found = mounted_at(record.place)
        if found is None or (source.kinds is not None and found.kind not in source.kinds):
            return False
        wanted = {"nosuid", "nodev", *(("ro",) if record.read_only else ())}
        return (
            wanted <= found.flags
            and links.leads(Path(record.path), record.place)
            and source.lives()
        )

    def is_begun_to_go(self, record: MountRecord) -> bool:
        """Whether an `unmount` that did not return had begun."""
        return not links.leads(Path(record.path), record.place)

    def unmount(self, record: MountRecord) -> None:
        """Have nothing of it left, whoever uses it. Done again, it changes nothing."""
        _check_view()
        with self._turn(record.account), _translated():
            reasons: list[CommandFailed] = []
            with _collected(reasons):
                self._unlink(record)
            self._witness("link removed")
            with _collected(reasons):
                self._take_away(record)
                _remove_directory(record.place)
                _remove_directory(record.home)
            self._witness("place removed")
            if reasons:
                raise reasons[0]
            self._store.remove(record.mount_id)
            self._witness("forgotten")

    def leftovers(self, account: str) -> list[str]:
        """All that is there of an account's mounts, recorded or not."""
        records = self.of(account)
        home = ROOT / account
        places = {str(one.place) for one in records}
        found = [record.path for record in records]
        others = [*(str(one.point) for one in mounted_below(home)), *clients_below(CLIENT, home)]
        with contextlib.suppress(FileNotFoundError):
            others += [str(path) for path in home.iterdir()]
        found += [one for one in dict.fromkeys(others) if one not in places]
        if not found and os.path.lexists(home):
            found.append(str(home))
        if found:
            _check_view()
        return found

    def clear(self, account: str, check: Callable[[], None]) -> None:
        """Have nothing of the account's mounts left. `check` is called in between, and may raise."""
        _check_view()
        home = ROOT / account
        with self._turn(account), _translated():
            for record in self.of(account):
                check()
                self.unmount(record)
            check()
            for one in reversed(mounted_below(home)):
                _detach(one.point)
            for place in clients_below(CLIENT, home):
                Bucket(_unrecorded(account, Path(place))).end()
            with contextlib.suppress(FileNotFoundError):
                for path in home.iterdir():
                    _remove_directory(path)
            _remove_directory(home)

    def _turn(self, account: str) -> threading.RLock:
        return self._turns[hash(account) % _TURNS]

    def _assemble(self, record: MountRecord, source: Source) -> None:
        self._make_place(record)
        self._witness("place made")
        source.attach()
        self._witness("attached")
        self._link(record)
        self._witness("linked")
        if not self.is_whole(record, source):
            raise CommandFailed(
                "MOUNT_FAILED",
                f"{record.location} was mounted, but not as it has to be (read-only, without "
                "devices and set-id programs). Look at the host.",
            )

    def _take_away(self, record: MountRecord) -> None:
        """What is mounted, and who serves it."""
        _detach(record.place)
        self._witness("detached")
        if record.kind is SourceKind.S3:
            Bucket(record).end()
        self._witness("source ended")

    def _make_place(self, record: MountRecord) -> None:
        with opened_parent(record.home, make=True) as parent:
            with contextlib.suppress(FileExistsError):
                os.mkdir(record.home.name, 0o700, dir_fd=parent)
            os.chown(record.home.name, 0, record.gid, dir_fd=parent, follow_symlinks=False)
            # The account's group gets through, and nobody else.
            os.chmod(record.home.name, 0o710, dir_fd=parent)  # noqa: S103 - as said
        with opened_parent(record.place) as parent, contextlib.suppress(FileExistsError):
            # Nobody gets in while nothing is mounted there.
            os.mkdir(record.place.name, 0o700, dir_fd=parent)

    def _link(self, record: MountRecord) -> None:
        path = Path(record.path)
        with self._linking:
            known = self._store.directories()
            missing = [one for one in missing_parents(path) if one not in known]
            if missing:
                self._store.put_directories([*known, *missing])
                self._witness("directories recorded")
            links.place(path, record.place)

    def _unlink(self, record: MountRecord) -> None:
        with self._linking:
            links.remove(Path(record.path), record.place)
            # The innermost first.
            made = sorted(self._store.directories(), key=len, reverse=True)
            kept = [one for one in made if not _remove_directory(Path(one))]
            self._store.put_directories(sorted(kept))

    def _undo(self, record: MountRecord) -> None:
        try:
            self.unmount(record)
        except CommandFailed as error:
            # The record stays, for the next attempt and for the end of the allocation.
            _log.error("mount not undone", mount=record.mount_id, reason=error.message)


def _check_view() -> None:
    if not is_hosts_view():
        raise CommandFailed(
            "NOT_HOST_VIEW",
            "The agent has a mount namespace of its own, and users would not see what it mounts or "
            "unmounts. Loosen its unit as deploy/remotegpu-agent.service.d/cleaning.conf does.",
        )


def _detach(place: Path) -> None:
    for _ in range(_MAX_LAYERS):
        if mounted_at(place) is None:
            return
        detach(place)
    raise CommandFailed("UNMOUNT_FAILED", f"{place} is mounted again and again. Look at the host.")


def _remove_directory(path: Path) -> bool:
    """Whether it is gone: one that holds something stays."""
    try:
        with opened_parent(path) as parent:
            os.rmdir(path.name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except CommandFailed:
        # On the way there is what is not the agent's any more: then this is not, either.
        return False
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.ENOTDIR, errno.EBUSY}:
            raise
        return False
    return True


def _unrecorded(account: str, place: Path) -> MountRecord:
    return MountRecord(place.name, "", account, 0, 0, SourceKind.S3, "s3://unknown", "/", True)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StateDirectoryError as error:
        raise CommandFailed(error.code, error.message) from None
    except TimeoutError:
        # Of whoever waits for this, and no error of the host's.
        raise
    except OSError as error:
        raise _failed(error) from None


@contextlib.contextmanager
def _collected(reasons: list[CommandFailed]) -> Iterator[None]:
    """What fails does not keep the rest from being undone."""
    try:
        yield
    except CommandFailed as error:
        reasons.append(error)
    except OSError as error:
        reasons.append(_failed(error))


def _failed(error: OSError) -> CommandFailed:
    where = f"{error.filename}: " if error.filename else ""
    reason = clean_text(f"{where}{error.strerror or error}", 500)
    return CommandFailed("MOUNT_FAILED", f"The host refused: {reason}. Look at it.")

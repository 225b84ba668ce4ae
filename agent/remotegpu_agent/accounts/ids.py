"""Which user id and which further ids an account gets: those that were given out longest ago."""

import hashlib
import pwd
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from grp import getgrgid
from itertools import chain
from typing import Final, TypeVar

import msgspec
from msgspec import Struct, structs

from remotegpu_agent.accounts.subordinate import SUBGID, SUBUID, read_ranges, slots
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.errors import StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory

_FILE: Final = "account_ids.json"
#: Ids that are looked at because something of an earlier owner is found of each.
_MAX_DIRTY: Final = 8

Item = TypeVar("Item")

#: What there is of an account with this user id and these further ids, in words; None where nothing is.
Leftovers = Callable[[int, range | None], str | None]


@dataclass(frozen=True, slots=True)
class AccountIds:
    """`further`: subordinate user and group ids; None on a host that has none to give."""

    uid: int
    further: range | None


class _Given(Struct, frozen=True, omit_defaults=True):
    """What was given out last. The next ones come after it, and the first again after the last."""

    uid: int | None = None
    further: int | None = None


class IdLedger:
    """`directory`: where is kept what was given out last; None: nowhere, as in tests."""

    def __init__(
        self, directory: StateDirectory | None = None, leftovers: Leftovers | None = None
    ) -> None:
        self._directory = directory
        self._leftovers = leftovers

    def choose(self, name: str, uids: range) -> AccountIds:
        """Ids for a new account. They are written down before anybody has them: an agent that is
        killed does not give them out again.

        Raises:
            CommandFailed: none is free, or the disk does not take it.
        """
        try:
            given = self._load()
            found, dirty = self._search(name, uids, given)
            if found is None:
                raise _none_free(uids, dirty)
            self._store(
                structs.replace(
                    given,
                    uid=found.uid,
                    further=given.further if found.further is None else found.further.start,
                )
            )
        except StateDirectoryError as error:
            raise CommandFailed(error.code, error.message) from None
        return found

    def _search(
        self, name: str, uids: range, given: _Given
    ) -> tuple[AccountIds | None, str | None]:
        """The ids, or None and what was found of an earlier owner of the last one tried."""
        taken = [*read_ranges(SUBUID), *read_ranges(SUBGID)]
        owners = {one.owner for one in taken}
        ranges = [
            one
            for one in slots()
            if not any(other.overlaps(one) for other in taken)
            and not (uids.start < one.stop and one.start < uids.stop)
        ]
        further = _rotated(ranges, lambda one: one.start > (given.further or -1))
        start = given.uid
        if start is None or start not in uids:
            start = uids[_begin(name, len(uids))]
        dirty: str | None = None
        tried = 0
        for uid in _after(uids, start):
            if not _is_free(uid) or str(uid) in owners:
                continue
            # A range of which something is found is passed over together with the user id.
            chosen = AccountIds(uid, further[tried % len(further)] if further else None)
            dirty = self._leftovers(uid, chosen.further) if self._leftovers is not None else None
            if dirty is None:
                return chosen, None
            tried += 1
            if tried >= _MAX_DIRTY:
                break
        return None, dirty

    def _load(self) -> _Given:
        content = None if self._directory is None else self._directory.read(_FILE)
        if content is None:
            return _Given()
        try:
            return msgspec.json.decode(content, type=_Given)
        except msgspec.MsgspecError:
            # What is lost is how far the rotation had come: each id is looked at all the same.
            return _Given()

    def _store(self, given: _Given) -> None:
        if self._directory is not None:
            self._directory.write(_FILE, msgspec.json.encode(given) + b"\n")


def _begin(name: str, count: int) -> int:
    """Where the rotation begins, on a host that does not know: not where it did before."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % count


def _after(uids: range, last: int) -> Iterator[int]:
    """All, those beyond the last one first. There may be billions."""
    index = uids.index(last) + 1
    return chain(uids[index:], uids[:index])


def _rotated(items: list[Item], is_next: Callable[[Item], bool]) -> list[Item]:
    """Those that come next first, then those before."""
    return [one for one in items if is_next(one)] + [one for one in items if not is_next(one)]


def _is_free(uid: int) -> bool:
    """As a user's, and as a group's, which the account has beside."""
    with suppress(KeyError):
        return pwd.getpwuid(uid) is None
    with suppress(KeyError):
        return getgrgid(uid) is None
    return True


def _none_free(uids: range, dirty: str | None) -> CommandFailed:
    if dirty is not None:
        return CommandFailed(
            "NO_CLEAN_USER_ID",
            f"Something of an earlier owner was found of each user id that was tried, the last time "
            f"{dirty}. Look at it, and remove it.",
        )
    return CommandFailed(
        "NO_FREE_USER_ID",
        f"All user ids from {uids[0]} to {uids[-1]} are taken. Widen account_uids in the policy of "
        "this host.",
    )

"""What an allocation owns on this host, and nothing else may be touched."""

import pwd
import re
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

from remotegpu_agent.accounts.subordinate import SUBUID, read_ranges

#: Lower user ids belong to the system.
FIRST_UID: Final = 1000
_NOBODY: Final = 65534
_LAST_UID: Final = 2**32 - 2

_ACCOUNT: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class Account(Struct, frozen=True):
    """The account that was made for an allocation. `home` is an absolute path."""

    name: str
    uid: int
    home: str


class Tenancy(Struct, frozen=True):
    """`subordinate`: ranges of further user ids of the account, first and how many (subuid(5)),
    as containers without root use them. `gpu_uuids`: None where this host does not know them.
    `whole_machine`: nobody else had anything of the host meanwhile."""

    allocation_id: str
    account: Account
    gpu_uuids: list[str] | None
    subordinate: list[tuple[int, int]] = []
    whole_machine: bool = False

    @property
    def uid(self) -> int:
        return self.account.uid

    @property
    def home(self) -> Path:
        """Where it really is: what holds the homes may be a link, and the last part is the user's
        to replace."""
        path = Path(self.account.home)
        return path.parent.resolve() / path.name

    def owns(self, uid: int) -> bool:
        return uid == self.account.uid or any(
            first <= uid < first + count for first, count in self.subordinate
        )


def objection(tenancy: Tenancy) -> str | None:
    """Why cleaning by this account could touch what is not the allocation's; None when it cannot.

    Looked at anew before each cleaning: in between, a user id may have become somebody else's.
    """
    account = tenancy.account
    if not _ACCOUNT.fullmatch(account.name) or account.name == "root":
        return f"{account.name!r} is no name of a user's account."
    if not FIRST_UID <= account.uid <= _LAST_UID or account.uid == _NOBODY:
        return f"User id {account.uid} of {account.name} belongs to the system."
    for first, count in tenancy.subordinate:
        if first < FIRST_UID or first <= _NOBODY < first + count:
            return f"The further user ids {first} (+{count}) of {account.name} are the system's."
    for one in read_ranges():
        if one.owner not in {account.name, str(account.uid)} and any(
            one.overlaps(range(first, first + count)) for first, count in tenancy.subordinate
        ):
            return (
                f"The further user ids {one.first} (+{one.count}) are {one.owner}'s and "
                f"{account.name}'s: give one of them others in {SUBUID}."
            )
    home = PurePosixPath(account.home)
    if not home.is_absolute() or ".." in home.parts or len(home.parts) < 3:
        return f"{account.home!r} is no home of one user."
    try:
        # Directories of accounts elsewhere may answer this and list nobody.
        found = pwd.getpwuid(account.uid).pw_name
    except KeyError:
        found = account.name
    if found != account.name:
        return f"User id {account.uid} is {found}'s, not {account.name}'s alone."
    for entry in pwd.getpwall():
        if entry.pw_name == account.name:
            if entry.pw_uid != account.uid:
                return f"{account.name} is user {entry.pw_uid} now, not {account.uid}."
            continue
        if tenancy.owns(entry.pw_uid):
            return f"User id {entry.pw_uid} is {entry.pw_name}'s, not {account.name}'s alone."
        other = PurePosixPath(entry.pw_dir)
        if other == home or home in other.parents:
            return f"{account.home} holds the home of {entry.pw_name}."
    return None

"""POSIX access control lists of files, as the kernel keeps them: acl(5), linux/posix_acl_xattr.h."""

import errno
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

READ: Final = 4
WRITE: Final = 2

_ATTRIBUTE: Final = "system.posix_acl_access"
_VERSION: Final = 2
_HEAD: Final = struct.Struct("<I")
#: Tag, permissions, id.
_ENTRY: Final = struct.Struct("<HHI")
_NO_ID: Final = 2**32 - 1

_OWNER: Final = 0x01
_USER: Final = 0x02
_OWNING_GROUP: Final = 0x04
_GROUP: Final = 0x08
_MASK: Final = 0x10
_OTHER: Final = 0x20


@dataclass(frozen=True, slots=True)
class AccessList:
    """`users` and `groups`: rights by id. Neither they nor the owning group ever get more than
    `mask`, which is None where the list is no longer than the file's mode."""

    owner: int
    group: int
    other: int
    users: Mapping[int, int] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)
    mask: int | None = None

    def lets(self, uid: int, rights: int) -> bool:
        """Whether a user who is neither the owner nor in any of its groups has all these rights."""
        if uid not in self.users:
            return self.other & rights == rights
        mask = 0o7 if self.mask is None else self.mask
        return self.users[uid] & mask & rights == rights

    def changed(self, *, users: Mapping[int, int], other: int) -> "AccessList":
        """With others in it, and a mask under which everybody has what is theirs."""
        mask = None
        if users or self.groups:
            mask = self.group
            for rights in (*users.values(), *self.groups.values()):
                mask |= rights
        return replace(self, users=dict(users), other=other, mask=mask)

    @classmethod
    def of_mode(cls, mode: int) -> "AccessList":
        return cls(mode >> 6 & 0o7, mode >> 3 & 0o7, mode & 0o7)

    @classmethod
    def parse(cls, packed: bytes) -> "AccessList":
        """Raises ValueError on anything that the kernel would not say."""
        if len(packed) < _HEAD.size or _HEAD.unpack_from(packed) != (_VERSION,):
            raise ValueError("an access control list of an unknown version")
        single: dict[int, int] = {}
        users: dict[int, int] = {}
        groups: dict[int, int] = {}
        try:
            for tag, rights, identity in _ENTRY.iter_unpack(packed[_HEAD.size :]):
                if tag == _USER:
                    users[identity] = rights
                elif tag == _GROUP:
                    groups[identity] = rights
                else:
                    single[tag] = rights
            return cls(
                single[_OWNER],
                single[_OWNING_GROUP],
                single[_OTHER],
                users,
                groups,
                single.get(_MASK),
            )
        except (struct.error, KeyError):
            raise ValueError("an access control list that is cut short") from None

    def packed(self) -> bytes:
        entries = [
            (_OWNER, self.owner, _NO_ID),
            *((_USER, rights, uid) for uid, rights in sorted(self.users.items())),
            (_OWNING_GROUP, self.group, _NO_ID),
            *((_GROUP, rights, gid) for gid, rights in sorted(self.groups.items())),
            *([] if self.mask is None else [(_MASK, self.mask, _NO_ID)]),
            (_OTHER, self.other, _NO_ID),
        ]
        return _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def read_access(path: Path) -> AccessList:
    """Raises OSError; a link is never followed."""
    try:
        return AccessList.parse(os.getxattr(path, _ATTRIBUTE, follow_symlinks=False))
    except ValueError as error:
        raise OSError(errno.EINVAL, f"{path} has {error}") from None
    except OSError as error:
        # A file system without such lists has modes all the same.
        if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise
    return AccessList.of_mode(stat.S_IMODE(path.lstat().st_mode))


def write_access(path: Path, access: AccessList) -> None:
    """Raises OSError: it is a link, or its file system keeps no such lists."""
    os.setxattr(path, _ATTRIBUTE, access.packed(), follow_symlinks=False)

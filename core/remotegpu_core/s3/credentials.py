"""Keys to buckets, from a file that nobody but the control plane can read.

See `docs/decisions/0016-credentials-of-sources.md`.
"""

import os
import stat
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from remotegpu_core.errors import Unavailable

#: Bytes of the file.
_MAX_FILE: Final = 262_144
_READERS: Final = stat.S_IRWXG | stat.S_IRWXO

_Pattern = Annotated[str, Meta(min_length=1, max_length=1024)]
_Key = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[!-~]+\Z")]


class BucketKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key, and the buckets that it is for: `bucket` takes `*`; no `endpoint` is Amazon's.

    In the form of the file that hosts have, so that one file can serve both.
    """

    bucket: _Pattern
    access_key: _Key
    secret_key: _Key
    endpoint: _Pattern | None = None
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")] | None = None

    def __repr__(self) -> str:
        return f"BucketKey(bucket={self.bucket!r}, endpoint={self.endpoint!r})"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    buckets: Annotated[list[BucketKey], Meta(max_length=1024)] = []


def find_key(path: Path | None, endpoint: str | None, bucket: str) -> BucketKey | None:
    """The first key in the file for a bucket; None where anonymous requests are all there is.

    Read anew every time, so that a key that was replaced is.

    Raises:
        Unavailable: the file cannot be read, others can read it too, or it is not what it should be.
    """
    if path is None:
        return None
    for key in _read(path):
        same = (key.endpoint or "").rstrip("/") == (endpoint or "")
        if same and fnmatchcase(bucket, key.bucket):
            return key
    return None


def _read(path: Path) -> list[BucketKey]:
    # No message repeats anything of what is in it.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _unusable(f"it cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unusable("it is no file")
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in {0, os.geteuid()} or found.st_mode & _READERS:
            raise _unusable(
                "others than its owner may read it, or its owner is neither root nor the control "
                "plane's user: chown it, and chmod 600"
            )
        text = file.read(_MAX_FILE + 1)
    if len(text) > _MAX_FILE:
        raise _unusable(f"it has more than {_MAX_FILE} bytes")
    try:
        return msgspec.convert(tomllib.loads(text.decode()), _File).buckets
    except UnicodeDecodeError:
        raise _unusable("it is not UTF-8") from None
    except tomllib.TOMLDecodeError:
        raise _unusable("it is not TOML") from None
    except msgspec.ValidationError:
        raise _unusable(
            "expected [[buckets]] with bucket, access_key, secret_key and maybe endpoint and region"
        ) from None


def _unusable(reason: str) -> Unavailable:
    return Unavailable(f"The file that REMOTEGPU_S3_CREDENTIALS names cannot be used: {reason}.")

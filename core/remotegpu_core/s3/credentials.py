"""Keys to buckets, from a file that nobody but the control plane can read.

See `docs/decisions/0016-credentials-of-sources.md`.
"""

import os
import stat
from pathlib import Path
from typing import Final

from remotegpu_core.errors import Unavailable
from remotegpu_protocol import bucket_keys
from remotegpu_protocol.bucket_keys import MAX_FILE, BucketKey, read_keys
from remotegpu_protocol.errors import InvalidValue

_READERS: Final = stat.S_IRWXG | stat.S_IRWXO


def find_key(path: Path | None, endpoint: str | None, bucket: str) -> BucketKey | None:
    """The first key in the file for a bucket; None where anonymous requests are all there is.

    Read anew every time, so that a key that was replaced is.

    Raises:
        Unavailable: the file cannot be read, others can read it too, or it is not what it should be.
    """
    return None if path is None else bucket_keys.find_key(_keys(path), endpoint, bucket)


def check_keys(path: Path | None) -> None:
    """Read the file before anything needs it; raises Unavailable as `find_key`."""
    if path is not None:
        _keys(path)


def _keys(path: Path) -> list[BucketKey]:
    try:
        return read_keys(_read(path))
    except InvalidValue as error:
        raise _unusable(error.message) from None


def _read(path: Path) -> bytes:
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
        return file.read(MAX_FILE + 1)


def _unusable(reason: str) -> Unavailable:
    return Unavailable(f"The file that REMOTEGPU_S3_CREDENTIALS names cannot be used: {reason}.")

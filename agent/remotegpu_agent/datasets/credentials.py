"""The host's keys to buckets, in a file that root alone can read."""

import os
import stat
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_protocol import bucket_keys
from remotegpu_protocol.bucket_keys import MAX_FILE, BucketKey, read_keys
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import clean_text

DEFAULT_PATH: Final = Path("/etc/remotegpu/s3.toml")


def find_key(endpoint: str | None, bucket: str, path: Path = DEFAULT_PATH) -> BucketKey | None:
    """The host's key to a bucket; None where it has none, and is anonymous.

    Raises:
        CommandFailed: the file is open to others, or not understood as a whole.
    """
    try:
        return bucket_keys.find_key(read_keys(_read(path)), endpoint, bucket)
    except FileNotFoundError:
        return None
    except (_Unsafe, InvalidValue) as error:
        raise _refused(path, str(error)) from None
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror or error}") from None


class _Unsafe(Exception):
    pass


def _read(path: Path) -> bytes:
    # Not blocking: a pipe in its place must not hold the agent up.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _Unsafe("it is not a file")
        if found.st_uid != 0 or found.st_mode & 0o077:
            raise _Unsafe(
                f"it belongs to user {found.st_uid} and has mode {stat.S_IMODE(found.st_mode):o}, "
                "so that others could read it: chown root:root, chmod 600"
            )
        return file.read(MAX_FILE + 1)


def _refused(path: Path, reason: str) -> CommandFailed:
    return CommandFailed(
        "CREDENTIALS",
        clean_text(f"{path}, the host's keys to buckets, is not used: {reason}.", 1000),
    )

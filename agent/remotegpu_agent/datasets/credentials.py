"""Keys to buckets, in a file of the host that root alone can read."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_protocol.datasets import check_endpoint
from remotegpu_protocol.grammar import clean_text

DEFAULT_PATH: Final = Path("/etc/remotegpu/s3.toml")

_MAX_BYTES: Final = 256 * 1024
#: Colons separate them where the client reads them.
_KEY: Final = r"^[\x21-\x39\x3b-\x7e]+\Z"
Key = Annotated[str, Meta(min_length=1, max_length=512, pattern=_KEY)]


class BucketKey(Struct, frozen=True, forbid_unknown_fields=True):
    """`endpoint`: None for Amazon's. `region`: only where the service asks for one."""

    bucket: str
    access_key: Key
    secret_key: Key
    endpoint: str | None = None
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")] | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    buckets: Annotated[list[BucketKey], Meta(max_length=1024)] = []


def find_key(endpoint: str | None, bucket: str, path: Path = DEFAULT_PATH) -> BucketKey | None:
    """The host's key to a bucket; None where it has none, and is anonymous.

    Raises:
        CommandFailed: the file is open to others, or not understood as a whole.
    """
    try:
        content = _read(path)
        found = msgspec.convert(tomllib.loads(content), type=_File)
        for key in found.buckets:
            if key.bucket == bucket and _endpoint(key) == endpoint:
                return key
    except FileNotFoundError:
        return None
    except _Unsafe as error:
        raise _refused(path, str(error)) from None
    except UnicodeDecodeError:
        raise _refused(path, "it is not UTF-8") from None
    except ValueError as error:
        # tomllib's and msgspec's: they say where, and repeat nothing of a key.
        raise _refused(path, str(error)) from None
    except OSError as error:
        raise _refused(path, f"it cannot be read: {error.strerror or error}") from None
    return None


def _endpoint(key: BucketKey) -> str | None:
    return None if key.endpoint is None else check_endpoint(key.endpoint)


class _Unsafe(Exception):
    pass


def _read(path: Path) -> str:
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
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise _Unsafe(f"it is larger than {_MAX_BYTES} bytes")
    return content.decode()


def _refused(path: Path, reason: str) -> CommandFailed:
    return CommandFailed(
        "CREDENTIALS",
        clean_text(f"{path}, the host's keys to buckets, is not used: {reason}.", 1000),
    )

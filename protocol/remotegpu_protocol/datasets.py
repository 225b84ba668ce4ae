"""Where data sets lie and where their users see them: one grammar, checked on both ends."""

import re
from enum import StrEnum
from typing import Final

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import shorten

#: Bytes of a path or a location.
MAX_PATH: Final = 1024
#: Names in a mount's path, that of the root among them.
MAX_DEPTH: Final = 8

#: Where a mount may appear. All else belongs to the system or to somebody.
MOUNT_ROOTS: Final = ("/data", "/datasets", "/mnt")

#: A mount's id names a directory on the host.
MOUNT_ID: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")

#: A name in a path: no leading dash, so that no program takes it for an option; no leading dot.
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9._+@-]{0,127}"
MOUNT_PATH: Final = re.compile(rf"^/(?:data|datasets|mnt)(?:/{_NAME}){{1,{MAX_DEPTH - 1}}}\Z")
#: An absolute path below `/`. Names may begin with a dot, but `.` and `..` are none.
_DIRECTORY: Final = re.compile(r"^(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._+@ ~=:-]{1,255})+\Z")
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(?:\.[A-Za-z0-9-]{1,63})*"
_NFS: Final = re.compile(rf"^(?P<host>{_HOST}|\[[0-9A-Fa-f:.]{{2,45}}\]):(?P<path>/.*)\Z")
#: A bucket and a prefix in it. Names of buckets as Amazon S3 has them.
_S3: Final = re.compile(
    r"^s3://(?![^/]*\.\.)(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"
    r"(?P<prefix>(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._+@=-]{1,255})*)/?\Z"
)
# By hand and as a whole: the parsers of URLs drop line breaks, and take much else for a host.
_ENDPOINT: Final = re.compile(
    rf"^https?://(?:{_HOST}|\[[0-9A-Fa-f:.]{{2,45}}\])(?::(?P<port>[0-9]{{1,5}}))?/?\Z"
)
_LAST_PORT: Final = 65_535


class SourceKind(StrEnum):
    DIRECTORY = "DIRECTORY"
    NFS = "NFS"
    S3 = "S3"


def check_mount_path(path: str) -> str:
    """`path` when a data set may be mounted there.

    Raises:
        InvalidValue: it is not below one of MOUNT_ROOTS, too deep, or holds what is no plain name.
    """
    if not MOUNT_PATH.fullmatch(path) or len(path) > MAX_PATH:
        raise InvalidValue(
            f"A mount's path lies below {', '.join(MOUNT_ROOTS)}, at most {MAX_DEPTH} names deep, "
            "each of letters, digits, '.', '_', '+', '@' or '-' and not beginning with '.' or '-'; "
            f"got {shorten(path)!r}."
        )
    return path


def check_location(kind: SourceKind, location: str) -> str:
    """`location` as it is kept, without a slash at its end, when it fits the kind of source.

    Raises:
        InvalidValue: it does not; with the form that is expected.
    """
    form, fits = _FORMS[kind]
    if len(location) > MAX_PATH or not fits(location):
        raise InvalidValue(f"Expected {form}, got {shorten(location)!r}.")
    return location.rstrip("/") if kind is SourceKind.S3 else location


def check_endpoint(endpoint: str) -> str:
    """`endpoint`, without a slash at its end, when it is the address of a service that speaks S3.

    Raises:
        InvalidValue: it is not http(s), a host and maybe a port, and nothing else.
    """
    found = _ENDPOINT.fullmatch(endpoint) if len(endpoint) <= MAX_PATH else None
    if found is None or not 0 < int(found["port"] or 443) <= _LAST_PORT:
        raise InvalidValue(
            f"Expected an endpoint like https://s3.example.org:9000, got {shorten(endpoint)!r}."
        )
    return endpoint.rstrip("/")


def nfs_parts(location: str) -> tuple[str, str]:
    """Host and exported path of a checked location."""
    found = _NFS.fullmatch(location)
    if found is None:
        raise InvalidValue(f"{shorten(location)!r} was never checked.")
    return found["host"].strip("[]"), found["path"]


def s3_parts(location: str) -> tuple[str, str]:
    """Bucket and prefix, without slashes around it, of a checked location."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/")


def _is_directory(location: str) -> bool:
    return _DIRECTORY.fullmatch(location) is not None


def _is_nfs(location: str) -> bool:
    found = _NFS.fullmatch(location)
    return found is not None and _is_directory(found["path"])


def _is_s3(location: str) -> bool:
    return _S3.fullmatch(location) is not None


_FORMS: Final = {
    SourceKind.DIRECTORY: ("an absolute path on the host, like /srv/imagenet", _is_directory),
    SourceKind.NFS: ("an export, like nas.example.org:/export/imagenet", _is_nfs),
    SourceKind.S3: ("a bucket and maybe a prefix, like s3://models/imagenet", _is_s3),
}

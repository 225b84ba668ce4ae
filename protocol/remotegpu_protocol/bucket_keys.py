"""Keys to buckets, in the form that hosts and the control plane have them in files of their own.

They never travel. One file can serve both.
"""

import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from remotegpu_protocol.datasets import check_endpoint
from remotegpu_protocol.errors import InvalidValue

#: Bytes of a file.
MAX_FILE: Final = 256 * 1024

#: Printable, without the colon that separates the two where s3fs reads them.
_Key = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[\x21-\x39\x3b-\x7e]+\Z")]


class BucketKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key, and the buckets that it is for: `bucket` takes `*`; no `endpoint` is Amazon's.

    `region`: only where the service asks for one.
    """

    bucket: Annotated[str, Meta(min_length=1, max_length=255)]
    access_key: _Key
    secret_key: _Key
    endpoint: str | None = None
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}\Z")] | None = None

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            check_endpoint(self.endpoint)

    def __repr__(self) -> str:
        # For logs and tracebacks, which show no key.
        return f"BucketKey(bucket={self.bucket!r}, endpoint={self.endpoint!r})"

    def opens(self, endpoint: str | None, bucket: str) -> bool:
        """`endpoint` as `check_endpoint` gives it."""
        own = None if self.endpoint is None else check_endpoint(self.endpoint)
        return own == endpoint and fnmatchcase(bucket, self.bucket)


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    buckets: Annotated[list[BucketKey], Meta(max_length=1024)] = []


def read_keys(content: bytes) -> list[BucketKey]:
    """What a file says.

    Raises:
        InvalidValue: it is not understood as a whole; the reason repeats nothing that is in it.
    """
    if len(content) > MAX_FILE:
        raise InvalidValue(f"it has more than {MAX_FILE} bytes")
    try:
        return msgspec.convert(tomllib.loads(content.decode()), _File).buckets
    except UnicodeDecodeError:
        raise InvalidValue("it is not UTF-8") from None
    except tomllib.TOMLDecodeError:
        raise InvalidValue("it is not TOML") from None
    except (msgspec.ValidationError, InvalidValue):
        raise InvalidValue(
            "expected [[buckets]] with bucket, access_key, secret_key (printable, no colons) and "
            "maybe endpoint (such as https://s3.example.org:9000) and region"
        ) from None


def find_key(keys: Iterable[BucketKey], endpoint: str | None, bucket: str) -> BucketKey | None:
    """The first that opens the bucket; None where only anonymous requests are left."""
    return next((key for key in keys if key.opens(endpoint, bucket)), None)

"""How much lies under a prefix, by listing it."""

import asyncio
import re
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import structlog

from remotegpu_core.errors import InvalidInput, Unavailable
from remotegpu_core.s3.credentials import find_key
from remotegpu_core.settings import Settings
from remotegpu_core.trust import bucket_context
from remotegpu_protocol.bucket_keys import BucketKey
from remotegpu_protocol.datasets import s3_parts
from remotegpu_protocol.grammar import clean_text

log = structlog.get_logger()

#: Objects of a page, pages that are listed at most, and seconds for all of them.
PAGE: Final = 1_000
MAX_PAGES: Final = 1_000
MAX_SECONDS: Final = 8.0
#: Seconds for a connection, and of silence.
TIMEOUT: Final = 3.0
#: Listings of one process at a time.
_AT_ONCE: Final = 4
_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,64}")
#: The region that a request is signed for where nobody named one.
_REGION: Final = "us-east-1"

_slots = threading.BoundedSemaphore(_AT_ONCE)


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes and objects, or else why they are not known, for people."""

    size: int | None = None
    object_count: int | None = None
    reason: str | None = None


async def measure(settings: Settings, location: str, endpoint: str | None) -> Measured:
    """List what is under a checked S3 location; never longer than a little over MAX_SECONDS."""
    bucket, prefix = s3_parts(location)
    if not _slots.acquire(blocking=False):
        return Measured(reason="Too many sources are being measured now: measure it again later.")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Measured] = loop.create_future()

    def settle(found: Measured) -> None:
        if not done.done():
            done.set_result(found)

    def work() -> None:
        try:
            found = _measure(settings, bucket, prefix, endpoint)
        finally:
            _slots.release()
        try:
            loop.call_soon_threadsafe(settle, found)
        except RuntimeError:
            log.info("s3.measured_too_late", bucket=bucket)

    # Not in a pool, whose threads a process waits for when it ends: a server may keep one as long
    # as it says something now and then.
    threading.Thread(target=work, name="s3-measure", daemon=True).start()
    try:
        async with asyncio.timeout(MAX_SECONDS + 2 * TIMEOUT):
            return await done
    except TimeoutError:
        return Measured(reason="The endpoint took too long to answer.")


def _measure(settings: Settings, bucket: str, prefix: str, endpoint: str | None) -> Measured:
    # They take a third of a second and tens of megabytes, and most processes never need them.
    from botocore.exceptions import BotoCoreError, ClientError, SSLError

    from remotegpu_core.s3.transport import RefusedAddress, TooMuch

    try:
        key = find_key(settings.s3_credentials, endpoint, bucket)
        return _list(bucket, prefix, endpoint, key, settings)
    except (Unavailable, InvalidInput) as error:
        return Measured(reason=error.message)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        shown = code if _CODE.fullmatch(code) else "an error"
        return Measured(reason=f"The endpoint answered the listing with {shown}.")
    except SSLError as error:
        return Measured(reason=_untrusted(error))
    except RefusedAddress:
        return Measured(reason="The endpoint has an address to which no request is sent.")
    except TooMuch:
        return Measured(reason="The endpoint's answer did not end.")
    except BotoCoreError as error:
        # Only its kind: what it says may hold addresses of our own network.
        return Measured(reason=f"The endpoint could not be asked ({type(error).__name__}).")
    except Exception as error:  # noqa: BLE001 - what a hostile answer does to a parser is not known
        log.warning("s3.measure_failed", bucket=bucket, error=type(error).__name__)
        return Measured(reason="The endpoint's answer could not be read.")


def _untrusted(error: Any) -> str:
    inner = next(iter(getattr(error.kwargs.get("error"), "args", ())), None)
    if not isinstance(inner, ssl.SSLCertVerificationError):
        return "The endpoint speaks no TLS that can be used."
    return (
        f"The endpoint's certificate is not trusted: {clean_text(inner.verify_message)}. If its "
        "authority is a private one, the operator names it in REMOTEGPU_CA_FILE."
    )


def _list(
    bucket: str,
    prefix: str,
    endpoint: str | None,
    key: BucketKey | None,
    settings: Settings,
) -> Measured:
    from remotegpu_core.s3.transport import Transport

    client = _client(endpoint, key)
    deadline = time.monotonic() + MAX_SECONDS
    transport = Transport(
        bucket_context(settings.ca_file),
        timeout=TIMEOUT,
        deadline=deadline,
        guarded=not settings.s3_allow_link_local,
    )
    client.meta.events.register("before-send.s3", transport)
    size = count = 0
    request: dict[str, Any] = {
        "Bucket": bucket,
        "Prefix": f"{prefix}/" if prefix else "",
        "MaxKeys": PAGE,
    }
    try:
        for _ in range(MAX_PAGES):
            page = client.list_objects_v2(**request)
            if "Name" not in page and "IsTruncated" not in page:
                # boto3 takes whatever is no listing for an empty one.
                raise ValueError("not a listing")
            for entry in page.get("Contents", []):
                size += max(0, int(entry["Size"]))
                count += 1
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token:
                return Measured(size=size, object_count=count)
            request["ContinuationToken"] = token
            if time.monotonic() > deadline:
                break
    finally:
        transport.close()
        client.close()
    return Measured(reason=f"There is more than the {count} objects that were listed in time.")


def _client(endpoint: str | None, key: BucketKey | None) -> Any:
    from boto3.session import Session
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        signature_version=UNSIGNED if key is None else "s3v4",
        # Names of buckets are no names of hosts but at Amazon's.
        s3={"addressing_style": "auto" if endpoint is None else "path"},
        retries={"total_max_attempts": 1},
        connect_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        proxies={},
    )
    # Keys that lie about in the environment, in files or at a metadata service are none of ours:
    # with a key given, or without a signature, nobody looks for them.
    session = Session(
        aws_access_key_id=key.access_key if key else None,
        aws_secret_access_key=key.secret_key if key else None,
        region_name=(key.region if key else None) or _REGION,
    )
    return session.client("s3", endpoint_url=endpoint, config=config)

"""Listing buckets with the real boto3: a server that is one, and servers that are none."""

import asyncio
import ipaddress
import re
import time
from pathlib import Path

import pytest

from remotegpu_core.s3 import addresses
from remotegpu_core.s3 import measure as measuring
from remotegpu_core.s3.addresses import is_refused
from remotegpu_core.s3.measure import Measured, measure
from remotegpu_core.s3.transport import MAX_ANSWER
from remotegpu_core.settings import Settings, load_settings
from tests.core.patience import eventually
from tests.core.s3.storage import Answer, listing, says, says_without_end, storage
from tests.services.s3 import S3Server

EMPTY = listing("<IsTruncated>false</IsTruncated>")
ONE = listing("<IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>7</Size></Contents>")


@pytest.fixture
def settings() -> Settings:
    return load_settings()


async def test_a_bucket_and_a_prefix(
    settings: Settings, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.fill(
        "measured", {"a/1": b"x" * 100, "a/2": b"x" * 50, "a/b/3": b"", "ab": b"x", "ü": b"xy"}
    )
    s3_server.fill("vacant", {})
    # Several pages, as of a bucket with thousands.
    monkeypatch.setattr(measuring, "PAGE", 2)
    for location, size, count in (
        ("s3://measured", 153, 5),
        # Not what only begins alike.
        ("s3://measured/a", 150, 3),
        ("s3://measured/a/b", 0, 1),
        ("s3://measured/none", 0, 0),
        ("s3://vacant", 0, 0),
    ):
        assert await measure(settings, location, s3_server.endpoint) == Measured(size, count)
    missing = await measure(settings, "s3://no-such-bucket", s3_server.endpoint)
    assert missing == Measured(reason="The endpoint answered the listing with NoSuchBucket.")
    monkeypatch.setattr(measuring, "MAX_PAGES", 1)
    cut = await measure(settings, "s3://measured", s3_server.endpoint)
    assert cut == Measured(reason="There is more than the 2 objects that were listed in time.")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(b"<html>hello</html>"), "could not be read"),
        (says(b""), "could not be read"),
        (says(b"\x00" * 100), "answered|could not be read"),
        (says(listing("<Contents><Size>x</Size></Contents>")), "could not be read"),
        (says(b"<Error><Code>A<b>B</Code></Error>", 403), "answered|could not be read"),
        (says(b"<Error><Code>AccessDenied</Code></Error>", 403), "with AccessDenied"),
        (says(b"<Error><Code>" + b"x" * 99 + b"</Code></Error>", 403), "with an error"),
        (says(b"x", 500), "answered"),
        # Nobody follows it there.
        (says(b"", 301, Location="http://169.254.169.254/"), "answered"),
        (says(b"x" * (MAX_ANSWER + 1)), "did not end"),
        (says_without_end(b"x" * 65536, 0), "did not end"),
        (says_without_end(b" ", 0.2), "did not end"),
        (says(b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>'), "could not be read"),
    ],
)
async def test_what_is_no_bucket(
    settings: Settings, answer: Answer, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "MAX_SECONDS", 1.0)
    with storage(answer) as server:
        found = await measure(settings, "s3://bucket", server.endpoint)
        assert found.size is None
        assert re.search(reason, found.reason or ""), found.reason
        assert "169.254" not in (found.reason or "")
        assert len(server.asked) == 1


async def test_a_listing_that_goes_round_in_circles_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "MAX_PAGES", 20)
    page = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    with storage(says(listing(page))) as server:
        found = await measure(settings, "s3://bucket", server.endpoint)
        assert found.reason == "There is more than the 0 objects that were listed in time."
        assert len(server.asked) == 20


async def test_nobody_waits_for_one_that_does_not_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the next one who measures: so many at a time, and no more."""
    with storage(lambda _handler: time.sleep(1.5)) as server, monkeypatch.context() as hurried:
        hurried.setattr(measuring, "MAX_SECONDS", 0.2)
        hurried.setattr(measuring, "TIMEOUT", 0.2)
        found = await asyncio.gather(
            *(measure(settings, "s3://bucket", server.endpoint) for _ in range(6))
        )
        assert all(each.size is None for each in found)
        assert sum("Too many" in (each.reason or "") for each in found) == 2

    async def free_again() -> bool:
        found = await measure(settings, "s3://bucket", "http://127.0.0.1:1")
        return found.reason == "The endpoint could not be asked (EndpointConnectionError)."

    await eventually(free_again)


KEYS = """
[[buckets]]
bucket = "other"
endpoint = "{endpoint}"
access_key = "WRONG"
secret_key = "wrong-secret"

[[buckets]]
bucket = "models-*"
endpoint = "{endpoint}/"
region = "eu-central-1"
access_key = "AKIDEXAMPLE"
secret_key = "planted-secret"

[[buckets]]
bucket = "*"
access_key = "AMAZONS"
secret_key = "amazons-secret"
"""


def _file(path: Path, text: str) -> Settings:
    path.write_text(text)
    path.chmod(0o600)
    return load_settings(s3_credentials=path)


async def test_whose_key_a_request_is_signed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # What lies about is nobody's.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "FROM-THE-ENVIRONMENT")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with storage(says(ONE)) as server:
        path = tmp_path / "s3.toml"
        keyed = _file(path, KEYS.format(endpoint=server.endpoint))
        for settings, bucket in (
            (keyed, "models-1"),
            # No entry of this endpoint fits.
            (keyed, "private"),
            (load_settings(), "models-1"),
        ):
            assert await measure(settings, f"s3://{bucket}", server.endpoint) == Measured(7, 1)
        # It is read for every use.
        _file(path, KEYS.format(endpoint=server.endpoint).replace("AKIDEXAMPLE", "AKIDNEW"))
        await measure(keyed, "s3://models-1", server.endpoint)
        signed = [headers.get("Authorization") for _, headers in server.asked]
    assert "Credential=AKIDEXAMPLE/" in (signed[0] or "")
    assert "/eu-central-1/s3/" in (signed[0] or "")
    assert signed[1:3] == [None, None]
    assert "Credential=AKIDNEW/" in (signed[3] or "")
    told = "".join(capfd.readouterr()) + repr(signed) + repr(server.asked)
    for secret in ("planted-secret", "amazons-secret", "wrong-secret", "FROM-THE-ENVIRONMENT"):
        assert secret not in told


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (KEYS, 0o640, "chmod 600"),
        (KEYS, 0o604, "chmod 600"),
        ("[[buckets]\nplanted-secret", 0o600, "not TOML"),
        ('[[buckets]]\nbucket = "x"\naccess_key = "planted-secret"', 0o600, "expected"),
        ('[[keys]]\nbucket = "x"', 0o600, "expected"),
        (KEYS.replace("planted", "planted\\n"), 0o600, "expected"),
        ("#" * 300_000, 0o600, "more than"),
    ],
)
async def test_a_file_that_is_not_used(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / "s3.toml"
    settings = _file(path, text)
    path.chmod(mode)
    with storage(says(ONE)) as server:
        found = await measure(settings, "s3://models-1", server.endpoint)
        assert said in (found.reason or "")
        assert "planted" not in (found.reason or "")
        assert server.asked == []
        path.unlink()
        (tmp_path / "target").write_text(KEYS)
        path.symlink_to(tmp_path / "target")
        found = await measure(settings, "s3://models-1", server.endpoint)
        assert "cannot be opened" in (found.reason or "")
        path.unlink()
        path.mkdir()
        assert "no file" in ((await measure(settings, "s3://b", server.endpoint)).reason or "")


async def test_nothing_is_said_to_an_address_that_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name says: the connection is looked at, here with loopback for link-local."""
    monkeypatch.setattr(addresses, "_REFUSED", (ipaddress.ip_network("127.0.0.0/8"),))
    with storage(says(ONE)) as server:
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001"):
            endpoint = server.endpoint.replace("127.0.0.1", host)
            found = await measure(settings, "s3://bucket", endpoint)
            assert found.reason == "The endpoint has an address to which no request is sent.", host
        assert server.asked == []
        allowed = settings.model_copy(update={"s3_allow_link_local": True})
        assert await measure(allowed, "s3://bucket", server.endpoint) == Measured(7, 1)


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::", True),
        ("fd00:ec2::254", True),
        ("0.0.0.0", True),  # noqa: S104 - refused, not bound
        ("not an address", True),
        ("169.253.255.255", False),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fd00::1", False),
    ],
)
def test_addresses(address: str, refused: bool) -> None:
    assert is_refused(address) is refused

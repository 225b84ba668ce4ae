"""Keys to buckets: one form for both ends, of which nothing gets out by a mistake."""

import pytest

from remotegpu_protocol.bucket_keys import MAX_FILE, BucketKey, find_key, read_keys
from remotegpu_protocol.errors import InvalidValue

SECRET = "sEcReT/0123456789"


def entry(**fields: str) -> str:
    known = {"bucket": "models", "access_key": "KEY", "secret_key": SECRET} | fields
    return "[[buckets]]\n" + "".join(f'{name} = "{value}"\n' for name, value in known.items())


def test_the_first_that_fits_opens_a_bucket() -> None:
    here = "https://s3.example.org:9000"
    keys = read_keys(
        (
            entry(access_key="ONE")
            + entry(bucket="team-*", access_key="TWO", endpoint=f"{here}/")
            + entry(bucket="*", access_key="THREE", endpoint=here)
        ).encode()
    )
    asked = [(None, "models"), (here, "team-a"), (here, "models"), (None, "team-a")]
    found = [find_key(keys, endpoint, bucket) for endpoint, bucket in asked]
    assert [key and key.access_key for key in found] == ["ONE", "TWO", "THREE", None]


@pytest.mark.parametrize(
    "content",
    [
        f'secret_key = "{SECRET}',
        f"secret_key = {SECRET}",
        f'"{SECRET}" = 1',
        entry(secret_key=f"{SECRET}:more"),
        entry(secret_key=f"{SECRET} more"),
        entry(secret_key=""),
        entry(endpoint=f"https://{SECRET}@example.org"),
        entry(endpoint="s3.example.org"),
        entry(region="eu;reboot"),
        entry(password=SECRET),
        entry() + "#" * MAX_FILE,
    ],
)
def test_what_is_refused_says_nothing_of_a_key(content: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        read_keys(content.encode())
    assert SECRET[:6] not in str(refused.value)
    with pytest.raises(InvalidValue, match="UTF-8"):
        read_keys(b"\xff")


def test_no_key_is_shown() -> None:
    assert SECRET not in repr(BucketKey("models", "KEY", SECRET))

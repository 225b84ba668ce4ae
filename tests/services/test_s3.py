import urllib.error
import urllib.request

import pytest

from tests.services.s3 import S3Server, running_s3


def test_it_keeps_what_it_is_given(s3_server: S3Server) -> None:
    s3_server.fill("kept", {"a/b": b"content"})
    found = s3_server.client().get_object(Bucket="kept", Key="a/b")
    assert found["Body"].read() == b"content"


def test_it_ends_with_its_block() -> None:
    with running_s3() as server:
        endpoint = server.endpoint
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(endpoint, timeout=5)  # noqa: S310 - ours

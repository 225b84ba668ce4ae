"""An S3 service with something in it, for as long as a test needs one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from moto.server import ThreadedMotoServer

from remotegpu_agent.datasets.credentials import DEFAULT_PATH
from tests.agent.reclaim.isolation import require_isolation

SECRET: Final = "a/secret+that=nobody-sees"


@contextmanager
def running_service() -> Iterator[str]:
    """Its endpoint; the bucket `models` holds `imagenet/a/one` and `top`."""
    assert Path("/usr/bin/s3fs").exists(), "install s3fs: scripts/test_packages.sh"
    assert Path("/dev/fuse").exists(), "this machine has no FUSE: modprobe fuse"
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = client_of(endpoint)
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="imagenet/a/one", Body=b"canary")
    client.put_object(Bucket="models", Key="top", Body=b"secret")
    try:
        yield endpoint
    finally:
        server.stop()


def client_of(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="KEY",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )


def write_keys(endpoint: str, mode: int = 0o600, secret: str = SECRET) -> None:
    """The host's own, to that bucket."""
    require_isolation()
    DEFAULT_PATH.write_text(
        f'[[buckets]]\nendpoint = "{endpoint}"\nbucket = "models"\naccess_key = "KEY"\n'
        f'secret_key = "{secret}"\n'
    )
    DEFAULT_PATH.chmod(mode)

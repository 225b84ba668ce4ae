"""An S3 service with something in it, for as long as a test needs one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from remotegpu_agent.datasets.credentials import DEFAULT_PATH
from tests.agent.reclaim.isolation import require_isolation
from tests.services.s3 import running_s3

SECRET: Final = "a/secret+that=nobody-sees"


@contextmanager
def running_service(
    certificate: Path | None = None, authority: Path | None = None
) -> Iterator[str]:
    """Its endpoint; the bucket `models` holds `imagenet/a/one` and `top`."""
    assert Path("/usr/bin/s3fs").exists(), "install s3fs: scripts/test_packages.sh"
    assert Path("/dev/fuse").exists(), "this machine has no FUSE: modprobe fuse"
    with running_s3(certificate, authority) as server:
        server.fill("models", {"imagenet/a/one": b"canary", "top": b"secret"})
        yield server.endpoint


def write_keys(endpoint: str, mode: int = 0o600, secret: str = SECRET) -> None:
    """The host's own, to that bucket."""
    require_isolation()
    DEFAULT_PATH.write_text(
        f'[[buckets]]\nendpoint = "{endpoint}"\nbucket = "models"\naccess_key = "KEY"\n'
        f'secret_key = "{secret}"\n'
    )
    DEFAULT_PATH.chmod(mode)

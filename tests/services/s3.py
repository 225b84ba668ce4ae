"""An S3 to test against: moto's server, a process of its own on a port of its own."""

import ssl
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK
from tests.services.process import ServerProcess, on_an_unused_port


class S3Server:
    """Keeps everything in memory, and takes any key.

    `certificate`: of localhost, with its key in one file, to serve TLS; `authority`: who signed it.
    """

    def __init__(
        self, folder: Path, certificate: Path | None = None, authority: Path | None = None
    ) -> None:
        self._folder = folder
        self._certificate = certificate
        self._authority = authority
        self._process: ServerProcess | None = None
        self.port = 0

    @property
    def endpoint(self) -> str:
        if self._certificate is not None:
            return f"https://localhost:{self.port}"
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        on_an_unused_port(self._start_on)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def fill(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Make a bucket with these objects by their keys."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)

    def client(self) -> Any:
        return client_of(self.endpoint, self._authority)

    def _start_on(self, port: int) -> None:
        self.port = port
        self._start()

    def _start(self) -> None:
        file = self._certificate
        tls = [] if file is None else ["--ssl-cert", str(file), "--ssl-key", str(file)]
        self._process = ServerProcess(
            [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port), *tls],
            log=self._folder / "moto.log",
        )
        self._process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            trusting = ssl.create_default_context(cafile=self._authority)
            with urllib.request.urlopen(  # noqa: S310 - ours
                f"{self.endpoint}/moto-api/", timeout=5, context=trusting
            ):
                return True
        except OSError:
            return False


@contextmanager
def running_s3(
    certificate: Path | None = None, authority: Path | None = None
) -> Iterator[S3Server]:
    """A server for the length of the block."""
    with server_directory("s3") as folder:
        server = S3Server(folder, certificate, authority)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def client_of(endpoint: str, authority: Path | None = None) -> Any:
    """What speaks to it in a test's own name."""
    # It takes a while, and most tests never ask for it.
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        verify=None if authority is None else str(authority),
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )

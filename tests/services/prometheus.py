"""A real Prometheus that scrapes what it is told to, configured as the one that is deployed."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK
from tests.services.process import PATIENCE, ServerFailed, ServerProcess, on_an_unused_port
from tests.services.programs import find_program

_DEPLOYED: Final = Path(__file__).parents[2] / "deploy" / "prometheus.yml"
#: Seconds between two scrapes here.
INTERVAL: Final = 1

Series = dict[str, str]


class PrometheusServer:
    """Debian's Prometheus on loopback, with `deploy/prometheus.yml` and nothing to discover."""

    def __init__(self, folder: Path, targets: Sequence[str], token: str) -> None:
        self._program = find_program("prometheus", package="prometheus")
        self.folder = folder
        self.configuration = folder / "prometheus.yml"
        credentials = folder / "token"
        credentials.write_text(token)
        self.configuration.write_text(configuration(targets, credentials))
        self._process: ServerProcess | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        on_an_unused_port(self._start_on)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def query(self, promql: str) -> list[tuple[Series, float]]:
        """The instant vector that an expression gives, labels and values.

        Raises:
            ServerFailed: Prometheus refused the expression; with what it said.
        """
        response = httpx.get(
            f"{self.url}/api/v1/query", params={"query": promql}, trust_env=False, timeout=10
        )
        body = response.json()
        if body["status"] != "success" or body["data"]["resultType"] != "vector":
            raise ServerFailed(f"Prometheus refused {promql!r}: {response.text}")
        return [(found["metric"], float(found["value"][1])) for found in body["data"]["result"]]

    def errors(self) -> list[str]:
        """What the last scrapes failed with, and what the log complains about."""
        targets = httpx.get(f"{self.url}/api/v1/targets", trust_env=False, timeout=10).json()
        failed = [t["lastError"] for t in targets["data"]["activeTargets"] if t["lastError"]]
        log = (self.folder / "prometheus.log").read_text(errors="replace")
        lines = re.findall(r"^.*level=(?:warn|error)\b.*$", log, re.MULTILINE | re.IGNORECASE)
        return failed + [line for line in lines if "scrape" in line]

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until what is asked of it has the answer that a test counts on.

        Raises:
            ServerFailed: it had not within `PATIENCE`; with what scrapes failed with.
        """
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                raise ServerFailed(f"It did not happen. Prometheus says: {self.errors()}")
            time.sleep(0.1)

    def _start_on(self, port: int) -> None:
        self.port = port
        self._start()

    def _start(self) -> None:
        self._process = ServerProcess(
            [
                self._program,
                f"--config.file={self.configuration}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
            ],
            log=self.folder / "prometheus.log",
        )
        self._process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def configuration(targets: Sequence[str], credentials: Path) -> str:
    """The deployed configuration with targets and an interval of a test's own.

    Raises:
        ServerFailed: what is to be replaced is not in it any more.
    """
    text = _DEPLOYED.read_text()
    for pattern, replacement in (
        (r"scrape_interval: \w+", f"scrape_interval: {INTERVAL}s"),
        (r"credentials_file: \S+", f"credentials_file: {credentials}"),
        (
            r"dns_sd_configs:\n(?: {6}.*\n)+",
            f"static_configs:\n      - targets: [{', '.join(targets)}]\n",
        ),
    ):
        text, count = re.subn(pattern, replacement, text)
        if count != 1:
            raise ServerFailed(f"{_DEPLOYED.name} has {count} of {pattern!r}, expected one.")
    return text


@contextmanager
def running_prometheus(targets: Sequence[str], token: str) -> Iterator[PrometheusServer]:
    """A Prometheus that scrapes `targets` (host:port) for the length of the block."""
    with server_directory("prometheus") as folder:
        server = PrometheusServer(folder, targets, token)
        server.start()
        try:
            yield server
        finally:
            server.stop()

"""The real program `remotegpu serve` as a process of its own, with machines and users in it."""

import asyncio
import http.client
import json
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remotegpu_agent.identity import HostKey
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import control_plane
from remotegpu_core.models import Machine
from remotegpu_core.services.sign_in import sign_in
from remotegpu_core.settings import Settings, load_settings
from tests.api.program import PROGRAM
from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK, unused_port
from tests.services.process import ServerProcess

_PASSWORD = "soak-Passw0rd-1"


@dataclass(frozen=True)
class Host:
    machine_id: str
    key: HostKey


@dataclass(frozen=True)
class Reading:
    """Of the server's process, at one moment."""

    resident: int
    descriptors: int
    tasks: int


@dataclass
class Plane:
    port: int
    origin: str
    #: An admin's session.
    token: str
    hosts: list[Host]
    command: list[str]
    log: Path

    def __post_init__(self) -> None:
        self.process = ServerProcess(self.command, log=self.log)

    def start_again(self) -> None:
        """After its process was stopped."""
        self.process = ServerProcess(self.command, log=self.log)
        self.process.wait_until(lambda: _answers(self))

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        body = json.dumps({"query": query, "variables": variables or {}})
        try:
            connection.request("POST", "/graphql", body, headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert "errors" not in answer, answer
        found: dict[str, Any] = answer["data"]
        return found

    def machine_ids(self) -> list[str]:
        """In the graph."""
        found = self.ask("{ machines(first: 100) { edges { node { id } } } }")
        return [edge["node"]["id"] for edge in found["machines"]["edges"]]

    def read(self) -> Reading:
        proc = Path("/proc") / str(self.process.pid)
        pages = int((proc / "statm").read_text().split()[1])
        status, metrics = self.get("/metrics")
        assert status == 200, metrics
        tasks = re.search(r"^remotegpu_tasks_running (\S+)$", metrics, re.MULTILINE)
        assert tasks is not None
        return Reading(pages * 4096, len(list((proc / "fd").iterdir())), int(float(tasks[1])))

    def at_rest(self, like: Reading, *, patience: float = 60.0) -> Reading:
        """Wait until connections and tasks are as few as they were, and say how it is then."""
        deadline = time.monotonic() + patience
        while (now := self.read()).descriptors > like.descriptors or now.tasks > like.tasks:
            assert time.monotonic() < deadline, f"{now} after {patience:.0f} s, {like} before"
            time.sleep(0.5)
        return now

    def complaints(self) -> list[str]:
        """Lines of its log that tell of a bug."""
        bad = ("Traceback", '"level": "error"', '"level":"error"', "internal_error", "CRITICAL")
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in bad)]


@contextmanager
def running_plane(
    hosts: int,
    *,
    prepare: Callable[[list[Host]], Awaitable[None]] | None = None,
    database_url: str | None = None,
    redis_url: str | None = None,
    **settings: str,
) -> Iterator[Plane]:
    """Serve on the embedded defaults unless told otherwise, without rate limits unless `settings`
    have them. `prepare` may write more rows before the server starts."""
    with server_directory("soak") as folder:
        port = unused_port()
        origin = f"http://{LOOPBACK}:{port}"
        chosen = load_settings(
            data_dir=folder / "state",
            admin_password=_PASSWORD,
            port=port,
            public_url=origin,
            log_level="warning",
            database_url=database_url,
            redis_url=redis_url,
        )
        token, enrolled = _prepared(chosen, hosts, prepare)
        variables = {
            "REMOTEGPU_DATA_DIR": str(folder / "state"),
            "REMOTEGPU_PORT": str(port),
            "REMOTEGPU_PUBLIC_URL": origin,
            "REMOTEGPU_LOG_FORMAT": "json",
            "REMOTEGPU_RATE_REQUESTS": "0",
            "REMOTEGPU_RATE_COST": "0",
            "REMOTEGPU_RATE_TIME": "0",
            "REMOTEGPU_ANONYMOUS_RATE_TIME": "0",
            "REMOTEGPU_ANONYMOUS_RATE_REQUESTS": "0",
            "REMOTEGPU_ANONYMOUS_RATE_COST": "0",
            **({} if database_url is None else {"REMOTEGPU_DATABASE_URL": database_url}),
            **({} if redis_url is None else {"REMOTEGPU_REDIS_URL": redis_url}),
            **settings,
        }
        env = shutil.which("env") or "env"
        log = folder / "serve.log"
        command = [env, *(f"{name}={value}" for name, value in variables.items())]
        plane = Plane(port, origin, token, enrolled, [*command, str(PROGRAM), "serve"], log)
        try:
            plane.process.wait_until(lambda: _answers(plane))
            yield plane
        finally:
            plane.process.stop()


def _answers(plane: Plane) -> bool:
    try:
        return plane.get("/healthz")[0] == 200
    except OSError:
        return False


def _prepared(
    settings: Settings, count: int, prepare: Callable[[list[Host]], Awaitable[None]] | None
) -> tuple[str, list[Host]]:
    async def run() -> tuple[str, list[Host]]:
        async with control_plane(settings):
            hosts = await _enrolled(count)
            if prepare is not None:
                await prepare(hosts)
            signed_in = await sign_in(settings, "admin", _PASSWORD, source_address=None)
            return signed_in.token, hosts

    return asyncio.run(run())


async def _enrolled(count: int) -> list[Host]:
    """Rows as enrolments leave them, all at once: thousands of those take minutes."""
    keys = [HostKey.generate() for _ in range(count)]
    machines = [
        Machine(
            name=f"soak-{number:05d}",
            name_key=f"soak-{number:05d}",
            public_key=key.public_key,
            created_at=now_ms(),
        )
        for number, key in enumerate(keys)
    ]
    await Machine.bulk_create(machines, batch_size=100)
    return [Host(str(machine.id), key) for machine, key in zip(machines, keys, strict=True)]

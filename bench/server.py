"""A server under test: pinned to its core, waited for, ended."""

import http.client
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.cores import SERVER, on_core
from tests.services.ports import LOOPBACK, unused_port
from tests.services.process import ServerProcess

#: The checkout, from which peers in Python are run as modules.
ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    port: int
    pid: int


@contextmanager
def running_server(
    name: str,
    command: Sequence[str | Path],
    folder: Path,
    *,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start `command`, which listens on the port in the variable PORT and answers GET /healthz."""
    port = port or unused_port()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PORT": str(port), "PYTHONPATH": path, **(environment or {})}
    pinned = ["env", *(f"{key}={value}" for key, value in variables.items() if key.isidentifier())]
    process = ServerProcess(
        [*on_core(SERVER, [*pinned, *command])], log=folder / f"{name.replace(' ', '-')}.log"
    )
    try:
        process.wait_until(lambda: answers(port))
        yield Server(name, port, process.pid)
    finally:
        process.stop()


def python_module(module: str) -> list[str | Path]:
    return [sys.executable, "-m", module]


def answers(port: int) -> bool:
    """Whether a server on loopback says that it is healthy."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

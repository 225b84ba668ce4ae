"""A real HAProxy with the deployed configuration, in front of servers on loopback."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK, unused_port
from tests.services.process import ServerFailed, ServerProcess
from tests.services.programs import find_program

_DEPLOYED: Final = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"


def configuration(port: int, servers: Sequence[int]) -> str:
    """The deployed configuration with an address and servers of a test's own.

    Raises:
        ServerFailed: what is to be replaced is not in it any more.
    """
    text = _DEPLOYED.read_text()
    lines = "\n".join(f"    server api{n} {LOOPBACK}:{s}" for n, s in enumerate(servers, 1))
    for pattern, replacement in (
        (r"    bind :8000", f"    bind {LOOPBACK}:{port}"),
        (r"resolvers docker\n(?: {4}.*\n)+", ""),
        (r"    server-template api .*", lines),
    ):
        text, count = re.subn(pattern, replacement, text)
        if count != 1:
            raise ServerFailed(f"{_DEPLOYED.name} has {count} of {pattern!r}, expected one.")
    return text


@contextmanager
def running_haproxy(servers: Sequence[int], *, port: int | None = None) -> Iterator[int]:
    """The port of a load balancer before servers on these ports, for the length of the block."""
    program = find_program("haproxy", package="haproxy", folders=[Path("/usr/sbin")])
    port = port or unused_port()
    with server_directory("haproxy") as folder:
        (folder / "haproxy.cfg").write_text(configuration(port, servers))
        process = ServerProcess(
            [program, "-db", "-f", str(folder / "haproxy.cfg")], log=folder / "haproxy.log"
        )

        def answers() -> bool:
            try:
                url = f"http://{LOOPBACK}:{port}/livez"
                return httpx.get(url, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        try:
            process.wait_until(answers)
            yield port
        finally:
            process.stop()

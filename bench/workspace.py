"""What a run has at hand: a directory, a Redis, and the load client, compiled."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.services.directory import server_directory
from tests.services.redis import RedisServer, running_redis

_LOAD: Final = Path(__file__).parent / "load"
_PROGRAMS: Final = {
    "viewers": ("viewers.c", "publisher.c", "websocket.c", "socket.c"),
    "agents": ("agents.c", "redis_counter.c", "websocket.c", "socket.c"),
    "requests": ("requests.c", "socket.c"),
}


class CannotBuild(Exception):
    """The load client did not compile."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """`programs` are the parts of the load client, by name."""

    folder: Path
    redis: RedisServer
    programs: dict[str, Path]

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@contextmanager
def workspace() -> Iterator[Workspace]:
    """Everything for one run, gone at its end."""
    with server_directory("bench") as folder, running_redis() as redis:
        yield Workspace(folder, redis, _compile(folder))


def _compile(folder: Path) -> dict[str, Path]:
    if shutil.which("gcc") is None:
        raise CannotBuild("The load client is C and needs gcc: apt-get install gcc libc6-dev")
    programs = {}
    for name, sources in _PROGRAMS.items():
        program = programs[name] = folder / name
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
        done = subprocess.run(
            [*command, *(str(_LOAD / source) for source in sources), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CannotBuild(f"gcc could not build {name}:\n{done.stderr}")
    return programs

"""Running the real program `remotegpu-agent` as a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_MAIN = "from remotegpu_agent.cli import main; main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", _MAIN, *arguments]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """The error, which is one line and no traceback."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert self.code != 0
        return lines[0]


async def call(
    *arguments: str, stdin: str = "", environment: dict[str, str] | None = None
) -> Result:
    """Run the program to its end."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(
    *arguments: str, environment: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs beside the test; it is killed if the test did not end it."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

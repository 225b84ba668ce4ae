"""Running the real program `remotegpu` as a process of its own."""

import asyncio
import io
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from remotegpu_api.cli import main

#: Beside the interpreter, as it is installed: the demo looks for its agents there too.
PROGRAM = str(Path(sys.executable).with_name("remotegpu"))

#: Seconds. Starting Python with everything takes a few on a busy machine.
PATIENCE = 60.0


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"PORT", "DATA"}}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200", **extra}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """The error, which is one line and no traceback. What was logged before it may stand."""
        said = [line for line in self.err.strip().splitlines() if not line.startswith("{")]
        assert len(said) == 1, self.err
        assert self.code == 1
        assert said[0].startswith("error: ")
        return said[0]


async def call(
    *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> Result:
    """Run the program to its end."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(environment or {}),
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


@contextmanager
def _in_this_process(
    arguments: Sequence[str], stdin: str, environment: Mapping[str, str]
) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    before, argv = dict(os.environ), sys.argv
    os.environ.clear()
    os.environ.update(_environment(environment))
    sys.argv = [PROGRAM, *arguments]
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    reader, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield out, err
    finally:
        sys.stdin, sys.argv = reader, argv
        os.environ.clear()
        os.environ.update(before)
        # What `set_up_logging` did to everybody.
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)


def call_here(
    *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
) -> Result:
    """Run the program's `main` to its end in this process: starting another takes seconds.

    For tests without a loop and without an open database.
    """
    code: int | str | None = 0
    with _in_this_process(arguments, stdin, environment or {}) as (out, err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    assert isinstance(code, int) or code is None
    return Result(code or 0, out.getvalue(), err.getvalue())


@dataclass
class Running:
    """A program that runs beside the test, and what it has said so far."""

    process: asyncio.subprocess.Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    said: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def output(self) -> str:
        return "".join(self.out)

    @property
    def log(self) -> str:
        return "".join(self.err)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened` is true of what it said.

        Raises:
            AssertionError: it ended first.
        """
        async with asyncio.timeout(PATIENCE):
            while not happened():
                assert self.process.returncode is None, self.output + self.log
                self.said.clear()
                await self.said.wait()

    async def says(self, text: str) -> None:
        await self.until(lambda: text in self.output)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Ask it to end, and return the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()
        return time.monotonic() - began


@asynccontextmanager
async def started(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Run the program beside the test; it is killed if the test did not end it."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**_environment(environment or {}), "PYTHONUNBUFFERED": "1"},
    )
    running = Running(process)
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [
        asyncio.create_task(_read(process.stdout, running.out, running.said)),
        asyncio.create_task(_read(process.stderr, running.err, running.said)),
    ]
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)


async def _read(stream: asyncio.StreamReader, lines: list[str], said: asyncio.Event) -> None:
    while line := await stream.readline():
        lines.append(line.decode())
        said.set()
    said.set()

"""The real agent with simulated GPUs, as a process that may die and start again."""

import asyncio
import signal
from pathlib import Path

from tests.agent import program as agents

_PATIENCE = 45.0


class SimulatedAgent:
    """One state directory, and the process that uses it at the moment."""

    def __init__(self, origin: str, folder: Path) -> None:
        self.folder = folder
        self._origin = origin
        self._state = ("--state-dir", str(folder))
        self._process: asyncio.subprocess.Process | None = None

    async def enroll(self, token: str) -> None:
        result = await agents.call(
            "enroll", "--server", self._origin, "--token", "-", *self._state, stdin=token
        )
        assert result.code == 0, result.err

    async def start(self) -> None:
        assert self._process is None
        self._process = await asyncio.create_subprocess_exec(
            *agents.command("run", "--gpu-source", "simulated", *self._state),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            # Its log is shown with a test that fails.
            stderr=None,
        )

    async def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            async with asyncio.timeout(_PATIENCE):
                await process.wait()

    def stop(self) -> None:
        """In its tracks: its sockets stay open, and nothing is read."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

"""A server's process: started with its log in a file, ended by its own pid."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.services.ports import unused_port

#: Seconds that a server may take to answer, or to end when asked to.
PATIENCE = 30.0


class ServerFailed(Exception):
    """A server ended, or did not answer, while a test counted on it."""


_PORTS_TRIED: Final = 3


def on_an_unused_port(start: Callable[[int], None]) -> None:
    """Have `start` start a server on a port; on another when somebody took it meanwhile.

    Raises:
        ServerFailed: it started on none of a few.
    """
    for left in reversed(range(_PORTS_TRIED)):
        try:
            start(unused_port())
        except ServerFailed:
            if not left:
                raise
        else:
            return


class ServerProcess:
    """One running server. It does not outlive the test run, even one that is killed."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        user: int | None = None,
        group: int | None = None,
        ask_to_end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._log = log
        self._name = Path(command[0]).name
        self._ask_to_end = ask_to_end
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_dying_with_us(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                # Ctrl-C at the terminal reaches pytest alone, which then ends its servers in order.
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until the server answers.

        Raises:
            ServerFailed: it ended, or did not answer within `PATIENCE`; with the end of its log.
        """
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if not self.running:
                raise ServerFailed(f"{self._name} ended at once. {self._last_words()}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self._name} did not answer within {PATIENCE:.0f} s. {self._last_words()}"
                )
            time.sleep(0.01)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        if not self.running:
            return
        self._process.send_signal(self._ask_to_end)
        # A paused process hears nothing else.
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    def _last_words(self) -> str:
        text = self._log.read_text(errors="replace").strip()
        return f"Its log ends:\n{text[-2000:]}" if text else "It logged nothing."


def _dying_with_us() -> list[str]:
    # setpriv replaces itself with the server, so the pid stays right.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []

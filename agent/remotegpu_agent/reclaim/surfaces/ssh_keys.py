"""Keys that let somebody in, wherever the account keeps them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.walk import opened
from remotegpu_protocol.surfaces import Surface

#: What sshd reads in ~/.ssh (AuthorizedKeysFile, its default), and what others add beside it.
_FILES: Final = ("authorized_keys", "authorized_keys2", "rc")


class SshKeys(BlockingStep):
    surface = Surface.SSH_KEYS

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        with self._opened() as directory:
            for name in _FILES if directory is not None else ():
                # Not a list of all: there may be millions.
                with contextlib.suppress(FileNotFoundError):
                    os.stat(name, dir_fd=directory, follow_symlinks=False)
                    findings.add(f"~/.ssh/{name}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        with self._opened() as directory:
            for name in _FILES if directory is not None else ():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """None without a directory there: sshd finds nothing, and a link goes with the home."""
        with contextlib.ExitStack() as stack:
            try:
                directory = stack.enter_context(opened(self._directory))
            except (FileNotFoundError, NotADirectoryError):
                directory = None
            yield directory

    @property
    def _directory(self) -> Path:
        return self.tenancy.home / ".ssh"

"""Keys that let somebody in, wherever the account keeps them."""

import contextlib
import os
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings
from remotegpu_agent.reclaim.tree import opened
from remotegpu_protocol.surfaces import Surface

#: What sshd reads in ~/.ssh (AuthorizedKeysFile, its default), and what others add beside it.
_FILES: Final = ("authorized_keys", "authorized_keys2", "rc")


class SshKeys(BlockingStep):
    surface = Surface.SSH_KEYS

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        try:
            with opened(self._directory) as directory:
                for name in _FILES:
                    # Not a list of all: there may be millions.
                    with contextlib.suppress(FileNotFoundError):
                        os.stat(name, dir_fd=directory, follow_symlinks=False)
                        findings.add(f"~/.ssh/{name}")
        except (FileNotFoundError, NotADirectoryError):
            # Without a directory there, sshd finds nothing; a link there goes with the home.
            pass
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        with opened(self._directory) as directory:
            for name in _FILES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)

    @property
    def _directory(self) -> Path:
        return self.tenancy.home / ".ssh"

"""What can go wrong in the agent that its user can do something about.

AgentError
├── NotEnrolled           the state directory holds no identity yet
├── AlreadyEnrolled       it holds one, and nobody asked to replace it
├── AlreadyRunning        another process holds the state directory
├── StateDirectoryError   missing, not ours, readable by others, not writable, or damaged
├── JournalError          the journal of commands cannot be read or written
├── SettingError          an option that makes no sense
├── Unreachable           no websocket to the control plane
│   └── CertificateRefused
└── Refused               the control plane answered, and said no
    └── KeyRefused        the key is, or was, another machine's
"""

import sys
from typing import ClassVar, Final, NoReturn

from remotegpu_protocol.errors import ProtocolError

#: Exit codes of the program. `status` uses the first three for what it found.
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_NOT_ENROLLED: Final = 2


class AgentError(Exception):
    """Root; its message is one line for a person and ends with what to do next."""

    code: ClassVar[str] = "AGENT_ERROR"
    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotEnrolled(AgentError):
    code = "NOT_ENROLLED"
    exit_code = EXIT_NOT_ENROLLED


class AlreadyEnrolled(AgentError):
    code = "ALREADY_ENROLLED"


class AlreadyRunning(AgentError):
    code = "ALREADY_RUNNING"


class StateDirectoryError(AgentError):
    code = "STATE_DIRECTORY"


class JournalError(AgentError):
    code = "JOURNAL"


class SettingError(AgentError):
    code = "SETTING"


class Unreachable(AgentError):
    code = "UNREACHABLE"


class CertificateRefused(Unreachable):
    code = "CERTIFICATE_REFUSED"


class Refused(AgentError):
    code = "REFUSED"


class KeyRefused(Refused):
    code = "KEY_REFUSED"


def fail(error: AgentError | ProtocolError) -> NoReturn:
    """End the program with one line and the error's exit code."""
    sys.stderr.write(f"remotegpu-agent: {error.message}\n")
    sys.exit(error.exit_code if isinstance(error, AgentError) else EXIT_FAILED)

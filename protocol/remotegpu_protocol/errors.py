"""What can go wrong on the link.

ProtocolError
├── InvalidMessage          not msgpack, not a known shape, or a value out of its range
├── UnknownMessage          well-formed, of a type that this version does not know
├── UnknownCommand          a command of a kind that this version does not know
├── UnexpectedMessage       known, at the wrong time
├── MessageTooLarge
├── VersionMismatch         no version in common
├── AuthenticationFailed    the signature, the machine or the enrolment token does not hold
├── EnrollmentRefused       the enrolment token is unknown, used, expired or revoked
├── KeyInUse                the key to enrol is, or was, another machine's
├── EnrollmentConflict      the machine's name or hardware is another machine's
├── Revoked                 the key was revoked or the machine removed
├── Superseded              a newer connection of the same machine took over
├── HostAccepted            an administrator accepted the host
├── Overloaded              the control plane has all the links, or greetings, that it may have
└── InvalidValue            a name, label or address outside its grammar
"""

from typing import ClassVar, Final


class ProtocolError(Exception):
    """Root of everything that the protocol refuses.

    `code` is stable and travels in `Error` messages; `close_code` is the websocket close code
    that ends the link when the error is fatal.
    """

    code: ClassVar[str] = "PROTOCOL_ERROR"
    close_code: ClassVar[int] = 4400

    #: Seconds after which trying again may help, where that is known.
    retry_after: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidMessage(ProtocolError):
    code = "INVALID_MESSAGE"


class UnknownMessage(ProtocolError):
    code = "UNKNOWN_MESSAGE"


class UnknownCommand(ProtocolError):
    code = "UNKNOWN_COMMAND"


class UnexpectedMessage(ProtocolError):
    code = "UNEXPECTED_MESSAGE"


class MessageTooLarge(ProtocolError):
    code = "MESSAGE_TOO_LARGE"
    close_code = 1009


class VersionMismatch(ProtocolError):
    code = "VERSION_MISMATCH"
    close_code = 4406


class AuthenticationFailed(ProtocolError):
    code = "AUTHENTICATION_FAILED"
    close_code = 4401


class EnrollmentRefused(AuthenticationFailed):
    code = "ENROLLMENT_REFUSED"


class KeyInUse(AuthenticationFailed):
    code = "KEY_IN_USE"


class EnrollmentConflict(AuthenticationFailed):
    code = "CONFLICT"


class Revoked(ProtocolError):
    code = "REVOKED"
    close_code = 4403


class Superseded(ProtocolError):
    code = "SUPERSEDED"
    close_code = 4409


class HostAccepted(ProtocolError):
    code = "HOST_ACCEPTED"
    close_code = 4410


class Overloaded(ProtocolError):
    code = "OVERLOADED"
    close_code = 4429

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidValue(ProtocolError, ValueError):
    code = "INVALID_VALUE"


_CLOSE_CODES: Final = {
    kind.code: kind.close_code
    for kind in (
        ProtocolError,
        InvalidMessage,
        UnknownMessage,
        UnknownCommand,
        UnexpectedMessage,
        MessageTooLarge,
        VersionMismatch,
        AuthenticationFailed,
        EnrollmentRefused,
        KeyInUse,
        EnrollmentConflict,
        Revoked,
        Superseded,
        HostAccepted,
        Overloaded,
        InvalidValue,
    )
}


def close_code_of(code: str) -> int:
    """The websocket close code that follows a fatal error with this code; 1001 for others."""
    return _CLOSE_CODES.get(code, 1001)

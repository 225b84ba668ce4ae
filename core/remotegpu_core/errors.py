"""What a caller can be told.

RemoteGPUError
├── Unauthenticated      no valid token came with the call
├── Forbidden            signed in, without the role or scope for this
├── NotFound             does not exist, or not for this caller
├── InvalidInput         a value outside its grammar or range
├── Conflict             the name is taken, the hardware is registered, ...
├── InvalidCredentials   user name or password is wrong
├── LockedOut            too many failures: wait
├── EnrollmentRefused    the token is unknown, used, expired or revoked
│   └── KeyInUse         the host's key is, or was, another machine's
├── CursorExpired        what came after the cursor is no longer kept
├── LimitExceeded        a bound of the service
├── NoCapacity           nothing that fits is free for that time
├── QuotaExceeded        more than the user or the workspace may have
├── IdempotencyKeyReused the key came with another input before
├── SshKeyRefused        not a key that may be used
│   ├── SshKeyMalformed, SshKeySeveral, SshKeyPrivate, SshKeyCertificate
│   └── SshKeyOptions, SshKeyWeak, SshKeyUnsupported, SshKeyMismatched
├── Unavailable          a part of the system is away; try again
└── TryLater             nothing is wrong with it but the moment
    ├── RateLimited      the caller has asked for too much lately
    └── Overloaded       the server has too much to do

A message says what was expected, what came, and what to do next. `field` is the path of the
input that caused it, in the names of the graph.
"""

from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID


class RemoteGPUError(Exception):
    """Root of every error that a user can cause or be told about. `code` is stable."""

    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: Sequence[str] | str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = [field] if isinstance(field, str) else list(field) if field else None
        #: Whether the service wrote the refusal into the audit trail itself.
        self.audited = False
        #: What it was about, for the audit trail only: its type and id.
        self.target: tuple[str, UUID] | None = None


class Unauthenticated(RemoteGPUError):
    code = "UNAUTHENTICATED"


class Forbidden(RemoteGPUError):
    code = "FORBIDDEN"


class NotFound(RemoteGPUError):
    code = "NOT_FOUND"


class InvalidInput(RemoteGPUError):
    code = "INVALID_INPUT"


def check_one_of(first: tuple[str, object], second: tuple[str, object]) -> None:
    """Raises InvalidInput unless exactly one of two inputs, by their names in the graph, is given."""
    if (first[1] is None) == (second[1] is None):
        got = "neither" if first[1] is None else "both"
        raise InvalidInput(f"Give either {first[0]} or {second[0]}, got {got}.", field=first[0])


class Conflict(RemoteGPUError):
    code = "CONFLICT"


class InvalidCredentials(RemoteGPUError):
    code = "INVALID_CREDENTIALS"


class LockedOut(RemoteGPUError):
    code = "LOCKED_OUT"


class EnrollmentRefused(RemoteGPUError):
    code = "ENROLLMENT_REFUSED"


class KeyInUse(EnrollmentRefused):
    code = "KEY_IN_USE"


class CursorExpired(RemoteGPUError):
    code = "CURSOR_EXPIRED"


class LimitExceeded(RemoteGPUError):
    code = "LIMIT_EXCEEDED"


class NoCapacity(RemoteGPUError):
    code = "NO_CAPACITY"


class QuotaExceeded(RemoteGPUError):
    code = "QUOTA_EXCEEDED"


class IdempotencyKeyReused(RemoteGPUError):
    code = "IDEMPOTENCY_KEY_REUSED"


class SshKeyRefused(RemoteGPUError):
    code = "SSH_KEY_REFUSED"


class SshKeyMalformed(SshKeyRefused):
    code = "SSH_KEY_MALFORMED"


class SshKeySeveral(SshKeyRefused):
    code = "SSH_KEY_SEVERAL"


class SshKeyPrivate(SshKeyRefused):
    code = "SSH_KEY_PRIVATE"


class SshKeyCertificate(SshKeyRefused):
    code = "SSH_KEY_CERTIFICATE"


class SshKeyOptions(SshKeyRefused):
    code = "SSH_KEY_OPTIONS"


class SshKeyWeak(SshKeyRefused):
    code = "SSH_KEY_WEAK"


class SshKeyUnsupported(SshKeyRefused):
    code = "SSH_KEY_UNSUPPORTED"


class SshKeyMismatched(SshKeyRefused):
    code = "SSH_KEY_MISMATCHED"


class Unavailable(RemoteGPUError):
    code = "UNAVAILABLE"


class TryLater(RemoteGPUError):
    """`retry_after` is how many seconds to wait before the next attempt, at least."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(TryLater):
    code = "RATE_LIMITED"


class Overloaded(TryLater):
    code = "OVERLOADED"

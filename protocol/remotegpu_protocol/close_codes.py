"""Websocket close codes on the agents' socket, and what an agent does about each."""

from enum import IntEnum
from typing import Final

from remotegpu_protocol.grammar import clean_text

#: Bytes of UTF-8 that a close frame has room for (RFC 6455, sections 5.5 and 5.5.1).
MAX_REASON_BYTES: Final = 123


class CloseCode(IntEnum):
    """4000-4999 are for applications (RFC 6455, section 7.4.2)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    TOO_LARGE = 1009
    INTERNAL = 1011
    #: A message that could not be read where one had to be, or too many such.
    BAD_MESSAGE = 4400
    #: Identity or enrolment token refused: trying again soon is pointless.
    UNAUTHENTICATED = 4401
    #: The key was revoked or the machine removed: enrol again.
    REVOKED = 4403
    #: No protocol version in common: one side must be upgraded.
    VERSION_MISMATCH = 4406
    #: No hello in time.
    HELLO_TIMEOUT = 4408
    #: A newer connection of the same machine took over.
    SUPERSEDED = 4409
    #: An administrator accepted the host: the link is opened anew.
    ACCEPTED = 4410
    #: The control plane has all the links that it may have: try later.
    OVERLOADED = 4429


#: Trying again within seconds cannot help; the agent waits a minute and says why.
PERMANENT: frozenset[int] = frozenset(
    {CloseCode.UNAUTHENTICATED, CloseCode.REVOKED, CloseCode.VERSION_MISMATCH}
)


def fit_reason(reason: str) -> str:
    """`reason` as a close frame can carry it."""
    encoded = clean_text(reason).encode()
    if len(encoded) <= MAX_REASON_BYTES:
        return encoded.decode()
    return encoded[: MAX_REASON_BYTES - 3].decode("utf-8", "ignore") + "…"

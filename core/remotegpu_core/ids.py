"""Identifiers of rows: UUIDs whose order is the order of their making."""

import secrets
import threading
import uuid

from remotegpu_core.clock import now_ms

_lock = threading.Lock()
_last = 0

#: Bits that neighbours within a millisecond are apart at most. Nobody guesses one from the other.
_STEP_BITS = 56


def new_id() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of milliseconds, 74 random bits.

    Within one process each is greater than the one before, also within a millisecond and when
    the clock goes back: the last one is then increased by a random number (section 6.2, method
    2). Processes order theirs by the millisecond.
    """
    global _last
    with _lock:
        value = (now_ms() & (2**48 - 1)) << 74 | secrets.randbits(74)
        if value <= _last:
            value = _last + 1 + secrets.randbits(_STEP_BITS)
        _last = value
    milliseconds, random = value >> 74, value & (2**74 - 1)
    return uuid.UUID(
        int=milliseconds << 80
        | 0x7 << 76
        | (random >> 62) << 64
        | 0b10 << 62
        | random & (2**62 - 1)
    )

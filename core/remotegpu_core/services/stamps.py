"""Stamps of the past that lie in the future: a clock that was ahead wrote them.

Whoever asks how long ago something was gets no answer from them. A silent host would count as just
heard, a lock on sign-ins would hold, until their time comes. So they are put right: what one of
them stands for happened at the latest now. Stamps that are only shown stay as they were written.
"""

from typing import Final

from tortoise.models import Model

from remotegpu_core.clock import credible, now_ms
from remotegpu_core.models import Freeze, Machine, Mount, Replica, SignInFailure
from remotegpu_core.services.freeze import QUIET

#: Columns that decide something by their age, and how far ahead of now each may lie.
_STAMPS: Final[tuple[tuple[type[Model], str, int], ...]] = (
    (Replica, "heartbeat_at", 0),
    (Machine, "last_seen_at", 0),
    (SignInFailure, "last_at", 0),
    (Mount, "unmount_at", 0),
    (Freeze, "until", QUIET),
)


async def put_right() -> int:
    """Set stamps that no clock can have written rightly to the latest that is possible.

    Returns how many. Not to be called while this process's own clock is doubted.
    """
    now = now_ms()
    changed = 0
    for model, column, ahead in _STAMPS:
        wrong = model.filter(**{f"{column}__gt": credible(now) + ahead})
        # Looked for first: a write that changes nothing would hold others up on SQLite.
        if await wrong.exists():
            changed += await wrong.update(**{column: now + ahead})
    return changed

"""Two hosts that take one machine's link from each other: copies of one disk that both run.

Nothing in what they say differs: boot, journal and key are the same. But each is there to take leave
when the other takes its link over, which a host that lost its connection and dials again is not.
"""

import uuid
from collections import deque
from typing import Final

#: Links of a machine that were taken over from a host which was there, within so many seconds,
#: that are proof of two hosts.
PROOF: Final = 3
WITHIN: Final = 60.0
#: Machines that are remembered.
_KEPT: Final = 10_000


class Takeovers:
    def __init__(self) -> None:
        self._times: dict[uuid.UUID, deque[float]] = {}

    def note(self, machine_id: uuid.UUID, now: float) -> bool:
        """A link was taken over from a host that was there; whether that is proof by now.

        `now` in monotonic seconds. Proof is given once, and then anew.
        """
        times = self._times.pop(machine_id, None) or deque(maxlen=PROOF)
        times.append(now)
        if len(times) == PROOF and times[0] >= now - WITHIN:
            return True
        self._times[machine_id] = times
        if len(self._times) > _KEPT:
            # The one that was heard of least lately.
            del self._times[next(iter(self._times))]
        return False

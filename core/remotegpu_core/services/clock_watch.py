"""Whether what this process takes for the time is the time.

Three things speak against it: the wall clock leaps while the process runs, it is far from what the
database saw last when the process starts, or most hosts agree that it is wrong. Then everything
that time alone would end is frozen (`freeze`), until the clock comes back or an admin confirms it.
"""

import statistics
import uuid
from collections.abc import Collection
from typing import Final

import structlog

from remotegpu_core.clock import CLOCK, TOLERANCE, Clock
from remotegpu_core.models import ClockStamp
from remotegpu_core.services import freeze, stamps

log = structlog.get_logger()

#: Milliseconds by which the clock may be ahead of the database's newest stamp at a start: how long
#: all processes may have been stopped before an administrator has to confirm the clock.
MAX_ABSENCE: Final = 30 * 60_000
#: Milliseconds by which it may be behind it: a stamp of another replica.
MAX_BEHIND: Final = 60_000
#: Hosts that must agree, and milliseconds by which they must find the clock wrong.
HOSTS: Final = 3
SKEW: Final = 60_000

_WAYS_OUT: Final = (
    "Nothing is ended because its time seems to have come until the clock is put right, or an "
    "administrator confirms it (endFreeze)."
)


class ClockWatch:
    """Of one process. `look` is called every second or so, `keep` with each sign of life."""

    def __init__(self, clock: Clock = CLOCK) -> None:
        self._clock = clock
        #: The newest stamp of the database that the clock was too far from when it was read, and
        #: when (elapsed) that was.
        self._far_from: tuple[int, int] | None = None
        #: A skew that an admin has confirmed.
        self._confirmed_skew = 0
        self._freeze_id: uuid.UUID | None = None

    @property
    def doubted(self) -> bool:
        return self._freeze_id is not None

    async def start(self) -> None:
        """Compare the clock with the newest stamp of the database."""
        stamp = await ClockStamp.get_or_none(id=1)
        if stamp is not None and not _is_near(self._clock.now() - stamp.at):
            self._far_from = (stamp.at, self._clock.elapsed())
        await self.look(())
        if not self.doubted:
            await stamps.put_right()

    async def look(self, offsets: Collection[int]) -> None:
        """Freeze, or thaw. `offsets`: our clock minus that of each host with a link here."""
        self._come_back()
        skew = common_skew(offsets)
        doubt = self._doubt(skew)
        if self._freeze_id is None:
            if doubt is not None:
                log.warning("clock.doubted", reason=doubt)
                self._freeze_id = await freeze.begin_for_clock(f"{doubt} {_WAYS_OUT}")
        elif doubt is None:
            await freeze.thaw(self._freeze_id)
            self._freeze_id = None
            await stamps.put_right()
            log.info("clock.trusted", because="it came back")
        elif not await freeze.prolong(self._freeze_id):
            self._clock.adopt()
            self._far_from, self._freeze_id, self._confirmed_skew = None, None, skew
            await ClockStamp.filter(id=1).update(at=self._clock.now())
            await stamps.put_right()
            log.info("clock.trusted", because="an admin confirmed it")

    async def keep(self) -> None:
        """Leave a stamp for the next start, unless the clock is doubted."""
        if self.doubted:
            return
        now = self._clock.now()
        if not await ClockStamp.filter(id=1, at__lt=now).update(at=now):
            await ClockStamp.bulk_create([ClockStamp(id=1, at=now)], ignore_conflicts=True)

    def _come_back(self) -> None:
        """End the doubt of the start when the wall clock was put right since."""
        if self._far_from is not None:
            stamp, read_at = self._far_from
            expected = stamp + self._clock.elapsed() - read_at
            if _is_near(self._clock.wall() - expected):
                self._far_from = None
                self._clock.adopt()

    def _doubt(self, skew: int) -> str | None:
        leap = self._clock.leap()
        if abs(leap) > TOLERANCE:
            return (
                f"The clock of a control plane process leapt by {_length(leap)} "
                f"{'forward' if leap > 0 else 'back'}, which is not time that passed. The process "
                "goes on by the time of before."
            )
        if self._far_from is not None:
            gap = self._clock.now() - self._far_from[0]
            return (
                f"A control plane process started with a clock {_length(gap)} "
                f"{_side(gap)} the newest moment in the database: it was stopped for so long, or "
                "its clock is wrong, or the database was restored."
            )
        if abs(skew - self._confirmed_skew) > TOLERANCE and abs(skew) > SKEW:
            return f"The control plane's clock is {_length(skew)} {_side(skew)} that of most hosts."
        return None


def common_skew(offsets: Collection[int]) -> int:
    """The offset that more than half of the hosts agree on; 0 where too few do."""
    if len(offsets) < HOSTS:
        return 0
    middle = round(statistics.median(offsets))
    agreed = sum(abs(offset - middle) <= TOLERANCE for offset in offsets)
    return middle if agreed >= HOSTS and 2 * agreed > len(offsets) else 0


def _is_near(gap: int) -> bool:
    return -MAX_BEHIND <= gap <= MAX_ABSENCE


def _length(milliseconds: int) -> str:
    minutes, seconds = divmod(abs(milliseconds) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {seconds} s"


def _side(milliseconds: int) -> str:
    return "ahead of" if milliseconds > 0 else "behind"

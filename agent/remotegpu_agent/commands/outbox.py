"""Events on their way: in order, few at a time, until they are acknowledged."""

import asyncio
import contextlib
import time
from typing import Final

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.journal import Journal
from remotegpu_agent.commands.moments import Moment, Witness
from remotegpu_agent.link import Link
from remotegpu_protocol.allowance import Allowance
from remotegpu_protocol.limits import EVENT_RETRY, EVENT_WINDOW, MESSAGE_RATE

#: Events a second for long, and at once: the control plane drops messages beyond its rate, and
#: heartbeats and samples count as well.
_RATE: Final = MESSAGE_RATE / 2
_BURST: Final = 2.0 * EVENT_WINDOW


class Outbox:
    """Sends what the journal holds, over one link at a time."""

    def __init__(
        self, journal: Journal, disk: DiskThread, *, witness: Witness, retry: float = EVENT_RETRY
    ) -> None:
        self._journal = journal
        self._disk = disk
        self._witness = witness
        self._retry = retry
        self._something = asyncio.Event()
        self._again = False

    def wake(self) -> None:
        """Something was written, or acknowledged."""
        self._something.set()

    def send_again(self) -> None:
        """Begin anew with the first event that is not acknowledged."""
        self._again = True
        self._something.set()

    async def serve(self, link: Link) -> None:
        """Send events over this link until cancelled."""
        allowance = Allowance(rate=_RATE, burst=_BURST, now=time.monotonic())
        position = acknowledged = self._journal.acknowledged
        moved_at = time.monotonic()
        while True:
            self._something.clear()
            if self._journal.acknowledged > acknowledged:
                acknowledged = self._journal.acknowledged
                moved_at = time.monotonic()
            if self._again or self._overdue(position, acknowledged, moved_at):
                self._again = False
                position = acknowledged
            position = max(position, acknowledged)
            room = EVENT_WINDOW - (position - acknowledged)
            events = (
                await self._disk(self._journal.events, after=position, limit=room) if room else []
            )
            if events and position == acknowledged:
                moved_at = time.monotonic()
            for event in events:
                if not allowance.take(time.monotonic()):
                    await asyncio.sleep(1 / _RATE)
                    allowance.take(time.monotonic())
                self._witness(Moment.SENDING)
                link.send_event(event)
                self._witness(Moment.SENT)
                position = event.sequence
            await self._wait(None if position <= acknowledged else moved_at + self._retry)

    def _overdue(self, position: int, acknowledged: int, moved_at: float) -> bool:
        return position > acknowledged and time.monotonic() >= moved_at + self._retry

    async def _wait(self, until: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(
                None if until is None else max(0.0, until - time.monotonic())
            ):
                await self._something.wait()

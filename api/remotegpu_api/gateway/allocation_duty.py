"""Starting, placing, warning of and ending allocations when their time comes."""

import asyncio
import contextlib
import time
from typing import Final

import structlog

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.services import leases
from remotegpu_core.services.allocations import duty
from remotegpu_core.services.datasets import revoking
from remotegpu_core.tasks import end, keep_running
from remotegpu_core.versions import Topic

log = structlog.get_logger()

#: Seconds between two looks, and between two at the queue when nothing seems to have changed.
_ROUND: Final = 1.0
_QUEUE: Final = 10.0


class AllocationDuty:
    """One replica does it at a time; if two did, each move would still be made once."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._wake = asyncio.Event()
        self._queue_moved = True
        self._queue_at = time.monotonic()
        self._away = False
        self._task: asyncio.Task[None] | None = None
        # What may make room, or a claim on it: a release, a machine that is back, a new grant.
        for topic in (Topic.ALLOCATIONS, Topic.MACHINE_CHANGES, Topic.ACCESS):
            plane.versions.on_change(topic, self._moved)

    async def start(self) -> None:
        self._task = asyncio.create_task(
            keep_running("allocations", self._round), name="allocation-duty"
        )

    async def stop(self) -> None:
        await end(self._task)
        self._task = None

    async def _moved(self) -> None:
        self._queue_moved = True
        self._wake.set()

    async def _round(self) -> None:
        # Not `wait_for`, which on Python 3.11 may swallow the cancellation that ends this duty.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROUND):
                await self._wake.wait()
        self._wake.clear()
        try:
            if await leases.hold("allocations", self._plane.replica_id) is not None:
                await self._look()
        except DATABASE_ERRORS as error:
            if not self._away:
                log.warning("allocations.database_away", error=str(error))
            self._away = True
            return
        self._away = False

    async def _look(self) -> None:
        moved = await duty.expire_due()
        moved += await duty.start_due()
        if self._queue_moved or time.monotonic() - self._queue_at >= _QUEUE:
            self._queue_moved, self._queue_at = False, time.monotonic()
            moved += await duty.place_queue()
            moved += await revoking.end_baseless()
        moved += await duty.warn_due(self._plane.settings.allocation_warnings)
        if moved:
            await self._plane.bus.nudge("allocations")

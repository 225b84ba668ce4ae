"""Noticing silence: this process answers for its own links, and for those of the dead."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import structlog

from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.services import freeze, gpu_claims, leases, presence, pruning, stamps
from remotegpu_core.services.addresses.quarantine import settle
from remotegpu_core.services.clock_watch import ClockWatch
from remotegpu_core.tasks import end, keep_running
from remotegpu_protocol.limits import UNREACHABLE_AFTER

if TYPE_CHECKING:
    from remotegpu_api.gateway.connection import AgentConnection

log = structlog.get_logger()

#: Seconds between two of each.
_BEAT: Final = 2.0
_SWEEP: Final = 5.0
_NOTE: Final = 60.0
_PRUNE: Final = 3600.0


class PresenceDuty:
    """Moves machines from ONLINE to UNREACHABLE and LOST, as late as promised and no earlier.

    A machine whose link ended here is UNREACHABLE when nothing was heard of it for 12 seconds. One
    whose replica died is taken over by the replica that has the duty at the time. What cannot be
    written because the database is away is tried again.
    """

    def __init__(self, plane: ControlPlane, links: "Mapping[uuid.UUID, AgentConnection]") -> None:
        self._plane = plane
        self._links = links
        self._clock = ClockWatch()
        #: Epoch and last word (monotonic seconds) of machines whose link ended here.
        self._gone: dict[uuid.UUID, tuple[int, float]] = {}
        #: Since when (monotonic seconds) the database has been there without a break: before that,
        #: no replica could have written a heartbeat, and no silence counts.
        self._watching_since = time.monotonic()
        self._last_done = dict.fromkeys((_BEAT, _SWEEP, _NOTE, _PRUNE), time.monotonic())
        self._task: asyncio.Task[None] | None = None
        self._away = False

    async def start(self) -> None:
        await self._clock.start()
        await freeze.note_start(self._plane.replica_id)
        await self._beat()
        self._watching_since = time.monotonic()
        self._task = asyncio.create_task(
            keep_running("presence", self._round), name="presence-duty"
        )

    async def stop(self) -> None:
        await end(self._task)
        with contextlib.suppress(*DATABASE_ERRORS):
            # What an admin confirmed a moment ago holds for the next start.
            await self._clock.look(())
            await self._clock.keep()
            await self._note_seen()
            await leases.let_go(self._plane.replica_id)
            await presence.retire_replica(self._plane.replica_id)

    def connected(self, machine_id: uuid.UUID) -> None:
        self._gone.pop(machine_id, None)

    def disconnected(self, machine_id: uuid.UUID, epoch: int, heard_at: float) -> None:
        """`heard_at`: monotonic seconds."""
        self._gone[machine_id] = (epoch, heard_at)

    async def _round(self) -> None:
        await asyncio.sleep(1)
        try:
            await self._look()
        except DATABASE_ERRORS as error:
            if not self._away:
                log.warning("presence.database_away", error=str(error))
            self._away = True
            return
        if self._away:
            self._watching_since = time.monotonic()
        self._away = False

    async def _look(self) -> None:
        moved = False
        await self._clock.look([link.link.clock_offset for link in self._links.values()])
        for machine_id, (epoch, heard_at) in tuple(self._gone.items()):
            if (silence := time.monotonic() - heard_at) >= UNREACHABLE_AFTER:
                moved |= await presence.disconnect(
                    machine_id, epoch, last_seen_at=now_ms() - int(silence * 1000)
                )
                # Whatever the answer: a newer connection is somebody else's business.
                if self._gone.get(machine_id) == (epoch, heard_at):
                    del self._gone[machine_id]
        if self._due(_BEAT):
            await self._plane.bus.probe(self._plane.replica_id)
            await self._beat()
            self._plane.database.health.written()
        if self._due(_SWEEP):
            moved |= bool(await presence.revive(self._seen(), self._plane.replica_id))
            if await leases.hold("presence", self._plane.replica_id) is not None:
                moved |= await self._sweep()
        if self._due(_NOTE):
            await self._note_seen()
        if self._due(_PRUNE) and await leases.hold("prune", self._plane.replica_id) is not None:
            await self._prune()
        if moved:
            await self._plane.bus.nudge("presence")

    async def _sweep(self) -> bool:
        """What one replica does for all; whether anything moved."""
        moved = bool(await settle())
        moved |= bool(await gpu_claims.settle())
        if await freeze.is_clock_doubted():
            # How long a machine has been silent is not known.
            return moved
        await stamps.put_right()
        # In milliseconds of a clock that may have been put right meanwhile.
        watching_since = now_ms() - int((time.monotonic() - self._watching_since) * 1000)
        moved |= bool(await presence.release_orphans(not_before=watching_since))
        moved |= bool(await presence.give_up(not_before=watching_since))
        await freeze.look()
        return moved

    async def _beat(self) -> None:
        await presence.beat(self._plane.replica_id, self._plane.started_at)
        await self._clock.keep()

    def _due(self, every: float) -> bool:
        now = time.monotonic()
        if now - self._last_done[every] < every:
            return False
        self._last_done[every] = now
        return True

    async def _note_seen(self) -> None:
        if seen := self._seen():
            await presence.note_seen(seen)

    def _seen(self) -> dict[uuid.UUID, tuple[int, int]]:
        return {
            machine_id: (connection.epoch, connection.heard_at)
            for machine_id, connection in self._links.items()
        }

    async def _prune(self) -> None:
        if await freeze.is_clock_doubted():
            return
        days = self._plane.settings.audit_retention_days
        await pruning.prune(now_ms() - days * 86_400_000)

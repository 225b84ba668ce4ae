"""Refusals in the audit trail: one by one of those who are signed in, summed up of strangers.

A stranger may ask as often as its rate allows, in documents that repeat a mutation under many
aliases. An event for each would let anybody fill the disk. So they are counted in memory, and one
event a minute says how often a network was refused what. See `docs/decisions/0027-strangers.md`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from remotegpu_core.actor import Actor, ActorKind, anonymous
from remotegpu_core.clock import now_ms
from remotegpu_core.database.failures import DATABASE_ERRORS, DatabaseUnavailable
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import (
    Forbidden,
    InvalidCredentials,
    LockedOut,
    NotFound,
    RemoteGPUError,
    Unauthenticated,
)
from remotegpu_core.ids import new_id
from remotegpu_core.models import AuditEvent, Outcome
from remotegpu_core.networks import caller_network
from remotegpu_core.services import audit
from remotegpu_core.tasks import end, keep_running

log = structlog.get_logger()

#: Seconds between two looks at what has to be written, and milliseconds that one event covers.
INTERVAL: Final = 10.0
WINDOW: Final = 60_000
#: Events of one window, after which the rest of it is told by action and code alone.
MAX_EVENTS: Final = 30
#: What such an event has in place of an address.
VARIOUS: Final = "various"

_DENIED: Final = (Unauthenticated, Forbidden, NotFound, InvalidCredentials, LockedOut)


@dataclass(slots=True)
class _Sum:
    """What one event says. `written` is the count in its row."""

    id: UUID
    source_address: str | None
    details: dict[str, str]
    outcome: Outcome
    target: tuple[str, UUID] | None
    action: str
    count: int = 0
    written: int = 0


class Refusals:
    """What one process refused. Everything that strangers may be refused goes through here."""

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        #: Refusals of strangers that were summed up since the start.
        self.summed_up = 0
        self._window = 0
        self._sums: dict[tuple[object, ...], _Sum] = {}
        #: Of windows that are over, what is not written yet.
        self._over: list[_Sum] = []
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(keep_running("refusals", self._tick), name="refusals")

    async def stop(self) -> None:
        await end(self._task)
        await self.flush()

    async def record(self, actor: Actor, action: str, error: RemoteGPUError) -> None:
        """Write a refused mutation down, now or with others of its minute."""
        # A database that is away, or takes no changes, refuses the event too.
        if error.audited or isinstance(error, DatabaseUnavailable):
            return
        outcome = Outcome.DENIED if isinstance(error, _DENIED) else Outcome.FAILED
        details = {"code": error.code}
        if error.field:
            details["field"] = ".".join(error.field)
        if actor.kind is ActorKind.ANONYMOUS:
            self._count(actor, action, error, outcome, details)
            return
        try:
            async with transaction():
                await audit.record(
                    actor, action, target=error.target, outcome=outcome, details=details
                )
        except DATABASE_ERRORS as failure:
            # The refusal stands whether or not it could be written down.
            log.error("audit.not_written", action=action, error=str(failure))

    async def flush(self) -> None:
        """Write what was counted. What cannot be written is tried again later."""
        async with self._lock:
            self._enter(self._clock() // WINDOW)
            changed = [
                one for one in (*self._over, *self._sums.values()) if one.count > one.written
            ]
            if not changed:
                return
            counts = [one.count for one in changed]
            try:
                async with transaction():
                    for one, count in zip(changed, counts, strict=True):
                        await _write(one, count)
            except DATABASE_ERRORS as failure:
                log.warning("audit.not_written", events=len(changed), error=str(failure))
                return
            for one, count in zip(changed, counts, strict=True):
                one.written = count
            self._over = []

    def _count(
        self,
        actor: Actor,
        action: str,
        error: RemoteGPUError,
        outcome: Outcome,
        details: dict[str, str],
    ) -> None:
        self._enter(self._clock() // WINDOW)
        network = caller_network(actor.source_address)
        key: tuple[object, ...] = (network, action, tuple(details.items()), error.target)
        source, target = actor.source_address, error.target
        if key not in self._sums and len(self._sums) >= MAX_EVENTS:
            key, source, target = (action, error.code), VARIOUS, None
            details = {"code": error.code}
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum(new_id(), source, details, outcome, target, action)
        found.count += 1
        self.summed_up += 1

    def _enter(self, window: int) -> None:
        if window == self._window:
            return
        self._window = window
        unwritten = [one for one in self._sums.values() if one.count > one.written]
        # With the database away for long, the oldest go.
        self._over = [*self._over, *unwritten][-10 * MAX_EVENTS :]
        self._sums = {}

    async def _tick(self) -> None:
        await asyncio.sleep(INTERVAL)
        await self.flush()


async def _write(one: _Sum, count: int) -> None:
    details = {**one.details, "count": str(count)}
    if one.written:
        await AuditEvent.filter(id=one.id).update(details=details)
        return
    await audit.record(
        anonymous(one.source_address),
        one.action,
        target=one.target,
        outcome=one.outcome,
        details=details,
        event_id=one.id,
    )

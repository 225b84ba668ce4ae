"""Times in which the control plane destroys nothing by itself.

When many hosts fall silent at once the fault is more likely on our side, a control plane that has
just started knows nothing yet, and one whose clock is doubted does not know what is over. Until
that has passed, what people did not ask for themselves waits: allocations that ran out stay, and
nothing is taken back.
"""

import uuid
from typing import Final

from tortoise.expressions import Subquery

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import credible, now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Freeze, FreezeCause, Machine, MachineChange
from remotegpu_core.services import audit
from remotegpu_core.services.changes import ChangeKind
from remotegpu_core.services.replicas import living_replicas
from remotegpu_core.states import Lifecycle, Presence

#: Milliseconds without a cause after which a freeze is over.
QUIET: Final = 300_000
#: Milliseconds within which losses count together.
WINDOW: Final = 60_000
#: Machines that must fall silent at least, and the part of the fleet that they must exceed.
MACHINES: Final = 3
PART: Final = 0.1

_STARTED: Final = "The control plane has just started."


async def current() -> Freeze | None:
    """The freeze that holds now; one for the clock before others, since it forbids the most."""
    held = await _held()
    return next((row for row in held if row.cause is FreezeCause.CLOCK), held[0] if held else None)


async def is_frozen() -> bool:
    """Whether nothing may be destroyed now without somebody having asked for it."""
    return bool(await _held())


async def is_clock_doubted() -> bool:
    """Whether nothing may be done now only because its time seems to have come."""
    return any(row.cause is FreezeCause.CLOCK for row in await _held())


async def note_start(replica_id: uuid.UUID) -> bool:
    """Freeze when this replica is the first that lives; True when it was."""
    if await living_replicas(now_ms()).exclude(id=replica_id).exists():
        return False
    await _freeze(FreezeCause.STARTED, _STARTED)
    return True


async def look() -> bool:
    """Freeze, or freeze on, when many machines fell silent within the last minute."""
    now = now_ms()
    moved = MachineChange.filter(
        kind=ChangeKind.PRESENCE_CHANGED, at__gte=now - WINDOW, at__lte=credible(now)
    )
    known = Machine.exclude(lifecycle=Lifecycle.RETIRED)
    recent = known.filter(id__in=Subquery(moved.values("machine_id")))
    silent = await recent.exclude(presence=Presence.ONLINE).count()
    if silent < MACHINES:
        return False
    online = await known.filter(presence=Presence.ONLINE).count()
    if silent <= PART * (online + silent):
        return False
    await _freeze(
        FreezeCause.SILENCE, f"{silent} of {online + silent} machines fell silent within a minute."
    )
    return True


async def begin_for_clock(reason: str) -> uuid.UUID:
    """Freeze for a clock that is doubted, and return the freeze's id for `prolong` and `thaw`."""
    now = now_ms()
    async with transaction():
        row = await Freeze.create(
            cause=FreezeCause.CLOCK, reason=reason, started_at=now, until=now + QUIET
        )
        await audit.record(SYSTEM, "freeze", details={"reason": reason})
    return row.id


async def prolong(freeze_id: uuid.UUID) -> bool:
    """Its cause is still there; False when an admin ended it."""
    return bool(await Freeze.filter(id=freeze_id, ended_at=None).update(until=now_ms() + QUIET))


async def thaw(freeze_id: uuid.UUID) -> None:
    """Its cause is gone."""
    await Freeze.filter(id=freeze_id, ended_at=None).update(ended_at=now_ms())


async def end(actor: Actor) -> Freeze:
    """End the freeze that holds; admins only.

    That confirms the clock, where it was doubted: its time is the right one from now on.

    Raises:
        Conflict: there is none.
    """
    actor.require_admin()
    async with transaction():
        held = await current()
        if held is None:
            raise Conflict("Nothing is frozen.")
        held.ended_at = now_ms()
        await Freeze.filter(ended_at=None).update(ended_at=held.ended_at, ended_by_id=actor.user_id)
        await audit.record(actor, "endFreeze", details={"reason": held.reason})
    return held


async def prune(older_than: int) -> None:
    """Forget freezes that were over before `older_than` (milliseconds)."""
    await Freeze.filter(until__lt=older_than).delete()


async def _held() -> list[Freeze]:
    """Those that hold, the latest end first.

    None lasts longer than QUIET without a cause: an end beyond that was written by a clock that
    was ahead.
    """
    now = now_ms()
    return await Freeze.filter(
        ended_at=None, until__gt=now, until__lte=credible(now) + QUIET
    ).order_by("-until")


async def _freeze(cause: FreezeCause, reason: str) -> None:
    now = now_ms()
    async with transaction():
        # The first cause stays as its reason.
        for held in await _held():
            if held.cause is not FreezeCause.CLOCK:
                await Freeze.filter(id=held.id).update(until=now + QUIET)
                return
        await Freeze.create(cause=cause, reason=reason, started_at=now, until=now + QUIET)
        await audit.record(SYSTEM, "freeze", details={"reason": reason})

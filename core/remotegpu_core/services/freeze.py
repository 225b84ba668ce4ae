"""Times in which the control plane destroys nothing by itself.

When many hosts fall silent at once the fault is more likely on our side, and a control plane that
has just started knows nothing yet. Until it has been quiet for a while, what people did not ask
for themselves waits: allocations that ran out stay, and nothing is taken back.
"""

import uuid
from typing import Final

from tortoise.expressions import Subquery

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Freeze, Machine, MachineChange, Replica
from remotegpu_core.services import audit
from remotegpu_core.services.changes import ChangeKind
from remotegpu_core.services.presence import REPLICA_DEAD_AFTER
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
    """The freeze that holds now."""
    return await Freeze.filter(ended_at=None, until__gt=now_ms()).order_by("-until").first()


async def is_frozen() -> bool:
    """Whether nothing may be destroyed now without somebody having asked for it."""
    return await current() is not None


async def note_start(replica_id: uuid.UUID) -> bool:
    """Freeze when this replica is the first that lives; True when it was."""
    alive = Replica.filter(heartbeat_at__gte=now_ms() - REPLICA_DEAD_AFTER)
    if await alive.exclude(id=replica_id).exists():
        return False
    await _freeze(_STARTED)
    return True


async def look() -> bool:
    """Freeze, or freeze on, when many machines fell silent within the last minute."""
    since = now_ms() - WINDOW
    moved = MachineChange.filter(kind=ChangeKind.PRESENCE_CHANGED, at__gte=since)
    known = Machine.exclude(lifecycle=Lifecycle.RETIRED)
    recent = known.filter(id__in=Subquery(moved.values("machine_id")))
    silent = await recent.exclude(presence=Presence.ONLINE).count()
    if silent < MACHINES:
        return False
    online = await known.filter(presence=Presence.ONLINE).count()
    if silent <= PART * (online + silent):
        return False
    await _freeze(f"{silent} of {online + silent} machines fell silent within a minute.")
    return True


async def end(actor: Actor) -> Freeze:
    """End the freeze that holds; admins only.

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


async def _freeze(reason: str) -> None:
    now = now_ms()
    async with transaction():
        held = await Freeze.filter(ended_at=None, until__gt=now).select_for_update()
        if held:
            # Whatever caused it first stands as its reason.
            await Freeze.filter(id__in=[row.id for row in held]).update(until=now + QUIET)
            return
        await Freeze.create(reason=reason, started_at=now, until=now + QUIET)
        await audit.record(SYSTEM, "freeze", details={"reason": reason})

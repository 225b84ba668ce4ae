"""Presence of machines, of those too whose link nobody holds."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from tortoise.expressions import Q

from remotegpu_core.clock import now_ms
from remotegpu_core.exposition.family import Field, label_set
from remotegpu_core.models import Machine
from remotegpu_core.services.replicas import living_replicas
from remotegpu_core.states import Lifecycle, Presence

_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class PresenceRow:
    labels: str
    #: 1 for the presence that the labels name when it is the machine's, else 0.
    holds: int


@dataclass(frozen=True, slots=True)
class SeenRow:
    labels: str
    #: Seconds since the Unix epoch.
    seen_at: float | None


@dataclass(frozen=True, slots=True)
class PresentMachine:
    id: uuid.UUID
    states: tuple[PresenceRow, ...]
    seen: SeenRow


PRESENCE_FIELDS: Final[tuple[Field[PresenceRow], ...]] = (
    Field(
        "remotegpu_machine_presence",
        "gauge",
        "1 for the presence that a machine has, 0 for those that it has not.",
        lambda row: row.holds,
    ),
)
SEEN_FIELDS: Final[tuple[Field[SeenRow], ...]] = (
    Field(
        "remotegpu_machine_last_seen_timestamp_seconds",
        "gauge",
        "When the machine's agent was last heard, within a minute; Unix time.",
        lambda row: row.seen_at,
    ),
)


async def answered_for(replica_id: uuid.UUID, started_at: int) -> AsyncIterator[PresentMachine]:
    """The machines whose presence this process exposes: each machine has one process that does.

    It is the one that holds, or held last, the machine's link; where that one is gone, or the host
    never connected, the living process that started first. Retired machines are left out.
    """
    alive = await living_replicas(now_ms())
    others = {replica.id: replica.started_at for replica in alive if replica.id != replica_id}
    mine = Q(replica_id=replica_id)
    if all((started_at, replica_id) < (at, other) for other, at in others.items()):
        mine |= Q(replica_id__isnull=True) | ~Q(replica_id__in=[replica_id, *others])
    query = Machine.filter(mine).exclude(lifecycle=Lifecycle.RETIRED).order_by("id")
    after: uuid.UUID | None = None
    while True:
        page = query if after is None else query.filter(id__gt=after)
        machines = await page.limit(_AT_ONCE).values_list("id", "name", "presence", "last_seen_at")
        for machine_id, name, presence, last_seen_at in machines:
            yield _present(machine_id, name, Presence(presence), last_seen_at)
        if len(machines) < _AT_ONCE:
            return
        after = machines[-1][0]


def _present(
    machine_id: uuid.UUID, name: str, presence: Presence, last_seen_at: int | None
) -> PresentMachine:
    return PresentMachine(
        id=machine_id,
        states=tuple(
            PresenceRow(label_set({"machine": name, "presence": state}), int(state is presence))
            for state in Presence
        ),
        seen=SeenRow(
            label_set({"machine": name}), None if last_seen_at is None else last_seen_at / 1000
        ),
    )

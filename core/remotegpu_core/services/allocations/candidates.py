"""Machines that a request could go to, found by the database: no more of a fleet is read than that.

`capacity` then reads the best of them in full, and `placement` chooses among those.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from remotegpu_core.database.sql import contains, select
from remotegpu_core.services.allocations.placement import NEVER
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.services.availability import USELESS_GPUS
from remotegpu_core.services.labels import with_labels_sql

#: What the database calls a machine: text on SQLite.
MachineId = uuid.UUID | str
#: Candidates that are looked at.
MOST: Final = 256

_BOUND: Final = (
    "m.id IN (SELECT machine_id FROM machine_grant WHERE user_id = ? UNION ALL "
    "SELECT machine_id FROM machine_grant WHERE workspace_id IN "
    "(SELECT workspace_id FROM membership WHERE user_id = ?))"
)

#: By machine: its GPUs, those that can be used, those of these that are as asked, and the smallest.
_GPUS: Final = """
SELECT machine_id, SUM(gpus) AS gpus, SUM(usable) AS usable,
    SUM(CASE WHEN {asked} THEN usable ELSE 0 END) AS matching,
    MIN(CASE WHEN {asked} AND usable > 0 THEN memory_total END) AS memory
FROM gpu_group WHERE gpus > 0 GROUP BY machine_id
"""
#: By machine, where anything is taken: GPUs that are, of those that can be used.
_TAKEN: Final = """
SELECT machine_id, COUNT(DISTINCT CASE WHEN gpu_id NOT IN ({useless}) THEN gpu_id END) AS gpus
FROM booking AS b WHERE {taken} GROUP BY machine_id
"""
#: By machine with GPUs of several kinds: those taken that are as asked.
_TAKEN_OF_SEVERAL: Final = """
SELECT b.machine_id, COUNT(DISTINCT b.gpu_id) AS gpus
FROM booking AS b JOIN gpu ON gpu.id = b.gpu_id
WHERE {taken} AND {asked} AND gpu.removed_at IS NULL AND gpu.health <> 'UNHEALTHY'
    AND b.machine_id IN (SELECT machine_id FROM gpu_group WHERE gpus > 0
        GROUP BY machine_id HAVING COUNT(*) > 1)
GROUP BY b.machine_id
"""
_FITTING: Final = """
SELECT m.id FROM machine AS m JOIN ({gpus}) AS g ON g.machine_id = m.id WHERE {fits} AND {open}
"""
_FREE: Final = """
SELECT m.id FROM machine AS m JOIN ({gpus}) AS g ON g.machine_id = m.id
    LEFT JOIN ({taken}) AS t ON t.machine_id = m.id
    LEFT JOIN ({taken_of_several}) AS s ON s.machine_id = m.id
WHERE {fits} AND {free} AND {open}
ORDER BY m.failed_starts, g.usable - COALESCE(t.gpus, 0), g.memory, m.name
"""
#: A machine has as many GPUs as are asked for from when all but so many of them are taken.
_EARLIEST_GPUS: Final = """
SELECT MIN(until) FROM (
    SELECT machine_id, until,
        ROW_NUMBER() OVER (PARTITION BY machine_id ORDER BY until DESC) AS place
    FROM (
        SELECT b.machine_id, b.gpu_id, {until} AS until
        FROM booking AS b JOIN gpu ON gpu.id = b.gpu_id
        WHERE {taken} AND b.machine_id IN (SELECT m.id FROM machine AS m WHERE {open})
            AND {asked} AND gpu.removed_at IS NULL AND gpu.health <> 'UNHEALTHY'
        GROUP BY b.machine_id, b.gpu_id
    ) AS ends
) AS p
WHERE p.place = 1 - {count} + (
    SELECT SUM(usable) FROM gpu_group AS g WHERE g.machine_id = p.machine_id AND {asked}
)
"""
_EARLIEST_WHOLE: Final = """
SELECT MIN(until) FROM (
    SELECT b.machine_id, {until} AS until FROM booking AS b
    WHERE {taken} AND b.machine_id IN (SELECT m.id FROM machine AS m WHERE {open})
    GROUP BY b.machine_id
) AS p
WHERE (
    SELECT SUM(gpus) FROM gpu_group AS g WHERE g.machine_id = p.machine_id
) = (
    SELECT SUM(usable) FROM gpu_group AS g WHERE g.machine_id = p.machine_id AND {asked}
)
"""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of SQL and the values of its question marks."""

    sql: str
    values: tuple[object, ...] = ()


class CandidateQuery:
    """A search for a place for `request`, which names no machine, from `starts_at` to its end.

    `now`: it is to start at this moment. `bound_to`: the user whose grants bind.
    """

    def __init__(
        self,
        request: AllocateRequest,
        starts_at: int,
        *,
        now: bool,
        bound_to: uuid.UUID | None,
    ) -> None:
        self._count = request.gpu_count
        self._asked = _asked(request)
        self._taken = _taken(starts_at, request.ends_at, now=now)
        self._open = _open(request, now=now, bound_to=bound_to)
        # As `placement` has it: only of what is overdue and not booked again, nobody knows the end.
        self._until = (
            f"COALESCE(MAX(CASE WHEN b.ends_at > {starts_at} THEN b.ends_at END), {NEVER})"
        )
        self._fits = f"g.matching >= {self._count}" if self._count else "g.matching = g.gpus"
        self._gpus = _GPUS.format(asked=self._asked.sql)

    async def free(self, but: Collection[uuid.UUID] = ()) -> list[MachineId]:
        """Where the request could go, none of `but`, up to MOST.

        Fewest failed starts first, then fewest GPUs left over, then the smallest memory, then by
        name: as `placement` ranks them.
        """
        free = "t.machine_id IS NULL"
        if self._count:
            free = (
                "g.matching - CASE WHEN g.matching = g.usable THEN COALESCE(t.gpus, 0) "
                f"ELSE COALESCE(s.gpus, 0) END >= {self._count}"
            )
        asked, taken = self._asked.values, self._taken.values
        several = _TAKEN_OF_SEVERAL.format(taken=self._taken.sql, asked=self._asked.sql)
        query = _FREE.format(
            gpus=self._gpus,
            taken=_TAKEN.format(taken=self._taken.sql, useless=USELESS_GPUS),
            taken_of_several=several,
            fits=self._fits,
            free=free,
            open=self._open.sql,
        )
        rows = await select(
            query if but else f"{query} LIMIT {MOST}",
            *(*asked, *asked, *taken, *taken, *asked, *self._open.values),
        )
        found: list[MachineId] = [row[0] for row in rows]
        if but:
            kept = {str(machine_id) for machine_id in but}
            found = [machine_id for machine_id in found if str(machine_id) not in kept]
        return found[:MOST]

    async def fitting(self, *, limit: int | None = None) -> list[MachineId]:
        """Where the request could go if nothing were allocated, in any order."""
        query = _FITTING.format(gpus=self._gpus, fits=self._fits, open=self._open.sql)
        rows = await select(
            query if limit is None else f"{query} LIMIT {limit}",
            *(*self._asked.values, *self._asked.values, *self._open.values),
        )
        return [row[0] for row in rows]

    async def earliest(self) -> int:
        """When the first machine that fits is free, if none is now; NEVER when that is not known."""
        asked = self._asked.values
        query = _EARLIEST_GPUS if self._count else _EARLIEST_WHOLE
        rows = await select(
            query.format(
                until=self._until,
                taken=self._taken.sql,
                open=self._open.sql,
                asked=self._asked.sql,
                count=self._count,
            ),
            *(*self._taken.values, *self._open.values, *(asked if self._count else ()), *asked),
        )
        found: int | None = rows[0][0]
        return NEVER if found is None else found


def _asked(request: AllocateRequest) -> _Part:
    """Which GPUs are as asked."""
    needed, parts, values = request.requirement, ["TRUE"], list[object]()
    if needed is not None and needed.gpu_model:
        parts.append("LOWER(model) LIKE ? ESCAPE '\\'")
        values.append(contains(needed.gpu_model))
    if needed is not None and needed.gpu_memory_at_least:
        parts.append("COALESCE(memory_total, 0) >= ?")
        values.append(needed.gpu_memory_at_least)
    return _Part(" AND ".join(parts), tuple(values))


def _taken(starts_at: int, ends_at: int, *, now: bool) -> _Part:
    """Which bookings are in the way: those that overlap and, for what starts now, those whose time
    is over while somebody still is there."""
    if not now:
        return _Part("b.held AND b.starts_at < ? AND b.ends_at > ?", (ends_at, starts_at))
    overdue = (
        "EXISTS (SELECT 1 FROM occupancy AS o "
        "WHERE o.resource_id = b.resource_id AND o.closed_at IS NULL)"
    )
    return _Part(
        f"b.held AND b.starts_at < ? AND (b.ends_at > ? OR {overdue})", (ends_at, starts_at)
    )


def _open(request: AllocateRequest, *, now: bool, bound_to: uuid.UUID | None) -> _Part:
    """Which machines take something new, and may take this."""
    parts, values = ["m.lifecycle = 'IN_SERVICE'", "m.draining = FALSE"], list[object]()
    parts.append("m.shareable = TRUE" if request.gpu_count else "m.allocatable = TRUE")
    if now:
        parts += ["m.presence = 'ONLINE'", "m.command_hold IS NULL"]
    if request.requirement is not None and request.requirement.labels:
        labelled, texts = with_labels_sql(request.requirement.labels, "m.id")
        parts.append(labelled)
        values += texts
    if bound_to is not None:
        parts.append(_BOUND)
        values += [bound_to, bound_to]
    return _Part(" AND ".join(parts), tuple(values))

"""Where a request would go, as things are."""

import uuid
from collections.abc import Collection
from typing import Final

from tortoise.queryset import QuerySet

from remotegpu_core.clock import now_ms
from remotegpu_core.database.sql import as_uuid
from remotegpu_core.models import Machine
from remotegpu_core.services.allocations.beneficiary import Beneficiary
from remotegpu_core.services.allocations.candidates import CandidateQuery
from remotegpu_core.services.allocations.capacity import read_hosts
from remotegpu_core.services.allocations.placement import NEVER, Placement, Refused, place, refused
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.services.labels import with_labels

#: Candidates that are read in full at once.
_BEST: Final = 32


async def look(
    whose: Beneficiary,
    request: AllocateRequest,
    *,
    only: uuid.UUID | None = None,
    but: Collection[uuid.UUID] | None = None,
) -> Placement | Refused:
    """`only`: to this machine, whatever else would do. `but`: to none of these, for the queue.

    Only the queue is told of all machines that could serve, and only others from when they are free.
    With `only`, or a machine that the request names, one machine is read. Otherwise the whole fleet
    is searched, which takes too long for a transaction.
    """
    at = now_ms()
    starts_at = max(at, request.starts_at or at)
    now = starts_at <= at
    one = request.machine_id or only
    if one is not None:
        machines = _eligible(whose, request).filter(id=one)
        hosts = await read_hosts(machines, request, starts_at, now=now)
        return place([] if one in (but or ()) else hosts, request, starts_at, now=now)
    bound_to = whose.user.id if whose.bound else None
    query = CandidateQuery(request, starts_at, now=now, bound_to=bound_to)
    free = await query.free(but or ())
    for first in range(0, len(free), _BEST):
        best = Machine.filter(id__in=free[first : first + _BEST])
        hosts = await read_hosts(best, request, starts_at, now=now)
        placement = place(hosts, request, starts_at, now=now)
        if isinstance(placement, Placement):
            return placement
    if but is not None:
        return refused(request, frozenset(map(as_uuid, await query.fitting())), NEVER)
    one_that_fits = frozenset(map(as_uuid, await query.fitting(limit=1)))
    return refused(request, one_that_fits, await query.earliest() if one_that_fits else NEVER)


def _eligible(whose: Beneficiary, request: AllocateRequest) -> QuerySet[Machine]:
    """Machines that they may have, with the labels that are asked for."""
    machines = whose.machines()
    if request.requirement is not None and request.requirement.labels:
        machines = machines.filter(with_labels(request.requirement.labels))
    return machines

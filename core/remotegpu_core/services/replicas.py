"""The control plane processes that run."""

from typing import Final

from tortoise.queryset import QuerySet

from remotegpu_core.clock import credible
from remotegpu_core.models import Replica
from remotegpu_protocol.limits import UNREACHABLE_AFTER

#: Milliseconds after which a replica that wrote no heartbeat holds no links any more.
REPLICA_DEAD_AFTER: Final = int(UNREACHABLE_AFTER * 1000)


def living_replicas(now: int) -> QuerySet[Replica]:
    """Those whose heartbeat is recent, and not from the future, which says nothing about when it
    was written."""
    return Replica.filter(
        heartbeat_at__gte=now - REPLICA_DEAD_AFTER, heartbeat_at__lte=credible(now)
    )

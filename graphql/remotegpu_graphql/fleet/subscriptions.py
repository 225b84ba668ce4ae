import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import strawberry

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.services.access import visible_scope
from remotegpu_core.services.fleet import summarise
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.fleet.types import Fleet
from remotegpu_graphql.sharing import Stream, share

#: Seconds between two looks at the fleet.
PULSE = 1.0


async def plan_fleet(
    plane: ControlPlane, actor: Actor, arguments: Mapping[str, Any]
) -> list[Stream]:
    """One stream for everybody who sees the same machines."""
    visible = await visible_scope(actor)

    async def events() -> AsyncIterator[Fleet]:
        previous = None
        while True:
            summary = await summarise(plane.bus, visible)
            if summary != previous:
                previous = summary
                yield Fleet.of(summary)
            await asyncio.sleep(PULSE)

    return [Stream(key=("fleetChanged", visible), events=events)]


share("fleetChanged", plan_fleet)


@strawberry.type
class FleetSubscription:
    @subscription(
        "What you may see of the fleet, in numbers: now, and whenever it changes, at most once a "
        "second."
    )
    async def fleet_changed(self, info: Info) -> AsyncIterator[Fleet]:
        context = info.context
        while True:
            # Which machines the viewer sees may change while they watch.
            visible = await visible_scope(context.actor)
            streams = await plan_fleet(context.plane, context.actor, {})
            async for event in streams[0].events():
                yield event
                if await visible_scope(context.actor) != visible:
                    break

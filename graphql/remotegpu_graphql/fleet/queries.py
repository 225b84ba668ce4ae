import strawberry

from remotegpu_core.services.access import visible_scope
from remotegpu_core.services.fleet import summarise
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.fleet.types import Fleet


@strawberry.type
class FleetQuery:
    @query("What you may see of the fleet, in numbers.")
    async def fleet(self, info: Info) -> Fleet | None:
        visible = await visible_scope(info.context.actor)
        return Fleet.of(await summarise(info.context.plane.bus, visible))

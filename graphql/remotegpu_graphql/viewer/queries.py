import strawberry

from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.users.types import User
from remotegpu_graphql.viewer.types import Viewer


@strawberry.type
class ViewerQuery:
    @query("Who is signed in.")
    async def viewer(self, info: Info) -> Viewer | None:
        user = await info.context.loaders.user.load(info.context.actor.require_user())
        return None if user is None else Viewer(user=User.of(user))

"""Times in which nothing is destroyed by itself."""

import strawberry

from remotegpu_core import models
from remotegpu_core.models import FreezeCause
from remotegpu_core.services import freeze
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation, query
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.scalars import DateTime

graph_enum(
    FreezeCause,
    "Why nothing is taken back by itself.",
    {
        "STARTED": "The control plane has just started.",
        "SILENCE": "Many hosts fell silent at once.",
        "CLOCK": "The control plane's clock may be wrong: nothing starts or ends by time either. It "
        "lasts until the clock is put right or an admin confirms it with endFreeze.",
    },
)


@strawberry.type(
    description="A time in which nothing is taken back by itself. What people ask for is done as "
    "ever."
)
class Freeze:
    cause: FreezeCause = strawberry.field(description="Why nothing is taken back.")
    reason: str = strawberry.field(description="What caused it first.")
    started_at: DateTime = strawberry.field(description="Since when.")
    until: DateTime = strawberry.field(
        description="When it ends unless something causes it again; an admin can end it now."
    )
    ended_at: DateTime | None = strawberry.field(description="When it was ended before its time.")

    @classmethod
    def of(cls, row: models.Freeze) -> "Freeze":
        return cls(
            cause=row.cause,
            reason=row.reason,
            started_at=DateTime(row.started_at),
            until=DateTime(row.until),
            ended_at=None if row.ended_at is None else DateTime(row.ended_at),
        )


@strawberry.type
class FreezeQuery:
    @query("The freeze that holds now; null when nothing is frozen.")
    async def freeze(self, info: Info) -> Freeze | None:
        row = await freeze.current()
        return None if row is None else Freeze.of(row)


@strawberry.type(description="Of endFreeze.")
class EndFreezePayload:
    freeze: Freeze | None = strawberry.field(default=None, description="The one that ended.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class FreezeMutation:
    @mutation(
        "End the freeze that holds now. Where the clock is doubted, that confirms it: what is over "
        "by it is ended.",
        access=Access.ADMIN,
    )
    async def end_freeze(self, info: Info) -> EndFreezePayload | None:
        row = await freeze.end(info.context.actor)
        return EndFreezePayload(freeze=Freeze.of(row))

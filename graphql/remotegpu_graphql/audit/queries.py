from typing import Annotated

import strawberry

from remotegpu_core.services import audit
from remotegpu_core.services.audit import AuditFilter
from remotegpu_graphql.audit.types import AuditEvent, AuditFilterInput
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)


@strawberry.type
class AuditQuery:
    @query("The audit trail, newest first: all of it for admins, their own part for others.")
    async def audit_events(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            AuditFilterInput | None, strawberry.argument(description="Which events.")
        ] = None,
    ) -> Connection[AuditEvent] | None:
        if info.context.actor.is_admin:
            # What strangers were refused lately is counted and not written yet.
            await info.context.plane.refusals.flush()
        page = await audit.list_events(
            info.context.actor,
            page_request(first, after, last, before),
            filter.to_filter() if filter else AuditFilter(),
        )
        return connection(page, AuditEvent.of)

import strawberry

from remotegpu_core.services import enrollments
from remotegpu_graphql.context import Info
from remotegpu_graphql.enrollments.types import Enrollment
from remotegpu_graphql.fields import query
from remotegpu_graphql.permissions import Access
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
class EnrollmentsQuery:
    @query("Enrolments, newest first.", access=Access.ADMIN)
    async def enrollments(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Enrollment] | None:
        page = await enrollments.list_enrollments(
            info.context.actor, page_request(first, after, last, before)
        )
        return connection(page, Enrollment.of)

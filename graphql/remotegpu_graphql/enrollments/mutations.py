from typing import Annotated

import strawberry

from remotegpu_core.services import enrollments
from remotegpu_graphql.bounds import characters, items
from remotegpu_graphql.context import Info
from remotegpu_graphql.enrollments.types import Enrollment
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, decode_optional
from remotegpu_graphql.machines.inputs import LabelInput
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.relay import Edge, edge, made_edge
from remotegpu_protocol.limits import MAX_LABELS


@strawberry.input(description="A host that is to become a machine, or to become it again.")
class CreateEnrollmentInput:
    machine_name: str | None = strawberry.field(
        default=None,
        description="Name of a new machine: letters, digits, '.', '_' or '-'.",
        metadata=characters(1, 63),
    )
    machine_id: strawberry.ID | None = strawberry.field(
        default=None,
        description="Instead of a name: the machine that a reinstalled host is. Its old key is "
        "revoked when the token is used.",
    )
    labels: list[LabelInput] | None = strawberry.field(
        default=None, description="Labels of the new machine.", metadata=items(0, MAX_LABELS)
    )


@strawberry.type(description="Of createEnrollment.")
class CreateEnrollmentPayload:
    token: str | None = strawberry.field(
        default=None,
        description="Single use, for ten minutes; in this answer and never again.",
    )
    command: str | None = strawberry.field(
        default=None, description="What to paste on the host, where the agent is installed."
    )
    enrollment: Enrollment | None = strawberry.field(default=None, description="The enrolment.")
    enrollment_edge: Edge[Enrollment] | None = made_edge("The enrolment", "enrollments")
    user_errors: list[UserError] = user_errors()


@strawberry.input(description="An enrolment to revoke.")
class RevokeEnrollmentInput:
    id: strawberry.ID = strawberry.field(description="Its id.")


@strawberry.type(description="Of revokeEnrollment.")
class RevokeEnrollmentPayload:
    enrollment: Enrollment | None = strawberry.field(default=None, description="The enrolment.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class EnrollmentsMutation:
    @mutation("Make a token with which one host becomes a machine.", access=Access.ADMIN)
    async def create_enrollment(
        self,
        info: Info,
        input: Annotated[CreateEnrollmentInput, strawberry.argument(description="Which host.")],
    ) -> CreateEnrollmentPayload | None:
        settings = info.context.plane.settings
        token, row = await enrollments.create_enrollment(
            info.context.actor,
            settings,
            machine_name=input.machine_name,
            machine_id=decode_optional(input.machine_id, "Machine", field="machineId"),
            labels=[(label.key, label.value) for label in input.labels or []],
        )
        return CreateEnrollmentPayload(
            token=token,
            command=f"remotegpu-agent enroll --server {settings.origin} --token {token}",
            enrollment=Enrollment.of(row),
            enrollment_edge=edge(row, enrollments.NEWEST_FIRST, Enrollment.of),
        )

    @mutation("Make an unused enrolment token worthless.", access=Access.ADMIN)
    async def revoke_enrollment(
        self,
        info: Info,
        input: Annotated[RevokeEnrollmentInput, strawberry.argument(description="Which.")],
    ) -> RevokeEnrollmentPayload | None:
        row = await enrollments.revoke_enrollment(
            info.context.actor, decode_id(input.id, "Enrollment", field="id")
        )
        return RevokeEnrollmentPayload(enrollment=Enrollment.of(row))

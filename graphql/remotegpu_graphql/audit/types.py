import uuid
from typing import Annotated

import strawberry

from remotegpu_core import models
from remotegpu_core.actor import ActorKind
from remotegpu_core.models import Outcome
from remotegpu_core.services.audit import AuditFilter
from remotegpu_graphql.bounds import characters
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.ids import NO_OBJECT, decode_filter, encode_id, split_id
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime
from remotegpu_graphql.tokens.types import ApiToken
from remotegpu_graphql.users.types import User

graph_enum(
    Outcome,
    "How it ended.",
    {
        "SUCCEEDED": "It was done.",
        "DENIED": "The caller may not, and nothing changed.",
        "FAILED": "The caller may, but it did not work, and nothing changed.",
    },
    name="AuditOutcome",
)
graph_enum(
    ActorKind,
    "What kind of caller did it.",
    {
        "ANONYMOUS": "Nobody who was signed in.",
        "USER": "A user in a session.",
        "API_TOKEN": "A program with an API token.",
        "MACHINE": "A machine's agent.",
        "SYSTEM": "The command line, or the system by itself.",
    },
    name="AuditActorKind",
)

AuditActor = Annotated[
    User | ApiToken | Machine, strawberry.union("AuditActor", description="Who did it.")
]


@strawberry.type(description="A detail of an audit event.")
class AuditDetail:
    key: str = strawberry.field(description="What it is.")
    value: str = strawberry.field(description="A short text, never a secret.")


@strawberry.type(description="Something that somebody did, or tried.")
class AuditEvent(Node):
    row: strawberry.Private[models.AuditEvent]
    at: DateTime = strawberry.field(description="When.")
    actor_kind: ActorKind = strawberry.field(description="What kind of caller.")
    action: str = strawberry.field(description="The mutation's name, or an agent's action.")
    target_type: str | None = strawberry.field(description="Type of what it was done to.")
    target_id: strawberry.ID | None = strawberry.field(description="Id of what it was done to.")
    outcome: Outcome = strawberry.field(description="How it ended.")
    source_address: str | None = strawberry.field(description="Where the call came from.")
    details: list[AuditDetail] = strawberry.field(description="More, by their key.")

    @strawberry.field(
        description="Who; null when they are gone, or were nobody, or the system itself."
    )
    async def actor(self, info: Info) -> AuditActor | None:
        row, loaders = self.row, info.context.loaders
        if row.actor_id is None:
            return None
        match row.actor_kind:
            case ActorKind.USER:
                user = await loaders.user.load(row.actor_id)
                return None if user is None else User.of(user)
            case ActorKind.API_TOKEN:
                token = await loaders.api_token.load(row.actor_id)
                return None if token is None else ApiToken.of(token)
            case ActorKind.MACHINE:
                machine = await loaders.machine.load(row.actor_id)
                return None if machine is None else Machine.of(machine)
            case _:
                return None

    @classmethod
    def of(cls, row: models.AuditEvent) -> "AuditEvent":
        return cls(
            id=encode_id("AuditEvent", row.id),
            row=row,
            at=DateTime(row.at),
            actor_kind=ActorKind(row.actor_kind),
            action=row.action,
            target_type=row.target_type,
            target_id=encode_id(row.target_type, row.target_id)
            if row.target_id is not None and row.target_type is not None
            else None,
            outcome=Outcome(row.outcome),
            source_address=row.source_address,
            details=[AuditDetail(key=key, value=row.details[key]) for key in sorted(row.details)],
        )


@strawberry.input(name="AuditFilter", description="Everything given must hold.")
class AuditFilterInput:
    actor_id: strawberry.ID | None = strawberry.field(
        default=None, description="A user, with their tokens, or one API token or machine."
    )
    action: str | None = strawberry.field(
        default=None, description="Exactly this action.", metadata=characters(1, 64)
    )
    target_id: strawberry.ID | None = strawberry.field(
        default=None, description="What it was done to."
    )
    outcome: Outcome | None = strawberry.field(default=None, description="How it ended.")
    since: DateTime | None = strawberry.field(default=None, description="Not before this.")
    until: DateTime | None = strawberry.field(default=None, description="Before this.")

    def to_filter(self) -> AuditFilter:
        user_id, actor_id = self._actor()
        return AuditFilter(
            user_id=user_id,
            actor_id=actor_id,
            action=self.action,
            target_id=decode_filter(self.target_id),
            outcome=self.outcome,
            since=self.since,
            until=self.until,
        )

    def _actor(self) -> tuple[uuid.UUID | None, uuid.UUID | None]:
        """A user, or else a token or machine: by its type, each is in a column of its own."""
        if self.actor_id is None:
            return None, None
        type_name, row_id = split_id(self.actor_id) or ("", NO_OBJECT)
        if type_name == "User":
            return row_id, None
        return None, row_id if type_name in {"ApiToken", "Machine"} else NO_OBJECT

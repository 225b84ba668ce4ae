import strawberry

from remotegpu_core import models
from remotegpu_core.clock import now_ms
from remotegpu_graphql.context import Info
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime


@strawberry.type(description="Permission for one host to become a machine.")
class Enrollment(Node):
    row: strawberry.Private[models.Enrollment]
    machine_name: str = strawberry.field(description="Name of the machine.")
    created_at: DateTime = strawberry.field(description="When it was made.")
    expires_at: DateTime = strawberry.field(description="When its token ends.")
    redeemed_at: DateTime | None = strawberry.field(description="When a host used the token.")
    revoked_at: DateTime | None = strawberry.field(description="When it was revoked.")

    @strawberry.field(description="Whether a host could use the token now.")
    def is_open(self) -> bool:
        row = self.row
        return row.redeemed_at is None and row.revoked_at is None and row.expires_at > now_ms()

    @strawberry.field(description="The machine it made or renews; null before that.")
    async def machine(self, info: Info) -> Machine | None:
        if self.row.machine_id is None:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)

    @classmethod
    def of(cls, row: models.Enrollment) -> "Enrollment":
        return cls(
            id=encode_id("Enrollment", row.id),
            row=row,
            machine_name=row.machine_name,
            created_at=DateTime(row.created_at),
            expires_at=DateTime(row.expires_at),
            redeemed_at=None if row.redeemed_at is None else DateTime(row.redeemed_at),
            revoked_at=None if row.revoked_at is None else DateTime(row.revoked_at),
        )

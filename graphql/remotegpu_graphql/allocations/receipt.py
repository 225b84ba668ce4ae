"""What was found and removed when an allocation ended."""

import strawberry

from remotegpu_core import models
from remotegpu_graphql.context import Info
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import Count, DateTime
from remotegpu_graphql.users.types import User


@strawberry.type(description="One place that was looked at.")
class CleaningItem:
    surface: str = strawberry.field(description="Which, such as home; new ones may come.")
    action: str = strawberry.field(description="What was done there.")
    found: Count = strawberry.field(description="Things that the allocation had left.")
    removed: Count = strawberry.field(description="Things that were removed.")
    verified: bool = strawberry.field(description="Whether a second look found nothing more.")
    detail: str | None = strawberry.field(description="More, for people.")


@strawberry.type(
    description="The proof that what an allocation held went back clean, or an admin's word for it."
)
class AllocationReceipt(Node):
    row: strawberry.Private[models.CleaningReceipt]
    finished_at: DateTime = strawberry.field(description="When it was written.")
    verified: bool = strawberry.field(
        description="Whether every place was looked at again and was clean; false for one that an "
        "admin wrote."
    )
    simulated: bool = strawberry.field(description="Whether the host only pretends.")
    reason: str | None = strawberry.field(description="Why an admin overrode it.")
    items: list[CleaningItem] = strawberry.field(description="Every place that was looked at.")

    @strawberry.field(description="The admin who overrode it; null when you may not see them.")
    async def overridden_by(self, info: Info) -> User | None:
        if self.row.overridden_by_id is None:
            return None
        row = await info.context.loaders.user.load(self.row.overridden_by_id)
        return None if row is None else User.of(row)

    @classmethod
    def of(cls, row: models.CleaningReceipt) -> "AllocationReceipt":
        return cls(
            row=row,
            id=encode_id("AllocationReceipt", row.id),
            finished_at=DateTime(row.finished_at),
            verified=row.verified,
            simulated=row.simulated,
            reason=row.reason,
            items=[
                CleaningItem(
                    surface=item["surface"],
                    action=item["action"],
                    found=Count(item["found"]),
                    removed=Count(item["removed"]),
                    verified=item["verified"],
                    detail=item["detail"],
                )
                for item in row.items
            ],
        )

import strawberry

from remotegpu_core.services.quotas import Limits, Usage


@strawberry.type(description="Things that are had at a time.")
class QuotaUse:
    used: int = strawberry.field(description="How many there are, waiting and reserved ones too.")
    limit: int | None = strawberry.field(description="How many there may be; null: any number.")


@strawberry.type(description="GPU-hours of a calendar month (UTC).")
class HourUse:
    used: float = strawberry.field(
        description="Booked by allocations that start in this month; what is given back early "
        "does not count."
    )
    limit: int | None = strawberry.field(description="How many there may be; null: any number.")


@strawberry.type(
    description="How much somebody may have, and has. It is checked when something is allocated or "
    "extended; what admins allocate is not refused for it, but counts."
)
class Quota:
    gpus: QuotaUse = strawberry.field(description="GPUs at a time.")
    allocations: QuotaUse = strawberry.field(description="Allocations at a time.")
    gpu_hours: HourUse = strawberry.field(description="GPU-hours of this month.")

    @classmethod
    def of(cls, found: tuple[Limits, Usage]) -> "Quota":
        limits, used = found
        return cls(
            gpus=QuotaUse(used=used.gpus, limit=limits.gpus),
            allocations=QuotaUse(used=used.allocations, limit=limits.allocations),
            gpu_hours=HourUse(used=round(used.gpu_hours, 3), limit=limits.gpu_hours),
        )

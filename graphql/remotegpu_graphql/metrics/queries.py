from uuid import UUID

import strawberry

from remotegpu_core.services.gpu_memory import MAX_USERS, GpuMemory, gpu_memory_by_user
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.scalars import ByteCount
from remotegpu_graphql.users.types import User


@strawberry.type(description="GPU memory that the processes of one user hold.")
class UserGpuMemory:
    username: str = strawberry.field(description="The user's name.")
    memory_used: ByteCount | None = strawberry.field(
        description="Memory that the processes hold, over all GPUs."
    )
    gpu_count: int = strawberry.field(description="GPUs on which they hold memory.")
    process_count: int = strawberry.field(
        description="The processes; one that uses two GPUs counts twice."
    )
    user_row_id: strawberry.Private[UUID]

    @strawberry.field(description="The user; null when you may see only the name.")
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.user.load(self.user_row_id)
        return None if row is None else User.of(row)

    @classmethod
    def of(cls, found: GpuMemory) -> "UserGpuMemory":
        return cls(
            username=found.username,
            memory_used=ByteCount(found.memory_used),
            gpu_count=found.gpus,
            process_count=found.processes,
            user_row_id=found.user_id,
        )


@strawberry.type
class MetricsQuery:
    @query(
        f"GPU memory by user, the one who holds most first, at most {MAX_USERS} users: what the newest "
        "samples say of processes that run in allocations that you may see."
    )
    async def gpu_memory_by_user(self, info: Info) -> list[UserGpuMemory] | None:
        found = await gpu_memory_by_user(info.context.actor, info.context.plane.bus)
        return [UserGpuMemory.of(each) for each in found]

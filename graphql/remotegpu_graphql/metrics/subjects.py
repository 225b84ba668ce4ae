"""The machine, the cards and the users that a sample is about: whole objects for a viewer, their ids alone in
a shared execution, which has no viewer whose rights could be looked at."""

from typing import TYPE_CHECKING
from uuid import UUID

from remotegpu_graphql.context import Context
from remotegpu_graphql.ids import encode_id

if TYPE_CHECKING:
    from remotegpu_graphql.machines.types import Gpu, Machine
    from remotegpu_graphql.users.types import User


async def machine_of(context: Context, machine_id: UUID) -> "Machine | None":
    # They mention each other.
    from remotegpu_graphql.machines.types import Machine

    if context.is_shared:
        return Machine.reference(encode_id("Machine", machine_id))
    row = await context.loaders.machine.load(machine_id)
    return None if row is None else Machine.of(row)


async def gpu_of(context: Context, machine_id: UUID, card: str) -> "Gpu | None":
    """The card with NVML's UUID `card`; None while the inventory does not have it."""
    from remotegpu_graphql.machines.types import Gpu

    if context.is_shared:
        row_id = await context.plane.gpu_ids.find(machine_id, card, context.loaders.gpus.load)
        return None if row_id is None else Gpu.reference(encode_id("Gpu", row_id))
    rows = await context.loaders.gpus.load(machine_id)
    return next((Gpu.of(row) for row in rows if row.uuid == card), None)


async def user_of(context: Context, machine_id: UUID, account: str | None) -> "User | None":
    """The user whose allocation has the POSIX account on the machine; None where the viewer may not
    see the allocation or its user."""
    from remotegpu_graphql.users.types import User

    if account is None:
        return None
    accounts = await context.loaders.accounts.load(machine_id)
    user_id = (accounts or {}).get(account)
    row = None if user_id is None else await context.loaders.user.load(user_id)
    return None if row is None else User.of(row)

"""Forgetting what is over and was kept long enough. What is still to be done never goes by age:
causes of a quarantine, allocations and receipts stay."""

from remotegpu_core.services import (
    audit,
    commands,
    freeze,
    idempotency,
    lockout,
    operations,
    sign_in,
)
from remotegpu_core.services.allocations.log import ALLOCATION_LOG
from remotegpu_core.services.changes import MACHINE_LOG


async def prune(older_than: int) -> None:
    """Forget what ended before `older_than` (milliseconds), and what has an age of its own."""
    await audit.prune(older_than)
    await lockout.prune()
    await sign_in.prune()
    await MACHINE_LOG.prune()
    await ALLOCATION_LOG.prune()
    await idempotency.prune()
    await commands.prune(older_than)
    await operations.prune(older_than)
    await freeze.prune(older_than)

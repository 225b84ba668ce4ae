"""What a machine is still to be cleaned of, whatever else keeps it out of use."""

import uuid

from remotegpu_core.models import Allocation, Operation
from remotegpu_core.services.allocations.lifecycle import RELEASE, quarantine_reason
from remotegpu_core.states import AllocationState


async def unclean_reason(machine_id: uuid.UUID) -> str | None:
    """Why cleaning failed, as a machine has room for it: the newest failure of an allocation that
    still holds something there. None where none does."""
    waiting = await Allocation.filter(
        machine_id=machine_id, state=AllocationState.RECLAIMING
    ).values_list("id", flat=True)
    failed = (
        await Operation.filter(
            allocation_id__in=list(waiting), kind=RELEASE, error_message__isnull=False
        )
        .order_by("-id")
        .first()
    )
    return None if failed is None else quarantine_reason(failed.error_message or "")

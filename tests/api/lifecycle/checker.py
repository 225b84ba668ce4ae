"""Nothing is available without a receipt of whoever had it last: looked at all the time, and in the
history that the database keeps."""

import asyncio
import contextlib
import itertools
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    CleaningReceipt,
    Command,
    Gpu,
    Machine,
    Occupancy,
)
from remotegpu_core.services.availability import claims_of, of_machine
from remotegpu_core.states import FINAL, Availability, Lifecycle


@dataclass
class Watch:
    """How often it was looked, and how often there was something free."""

    looks: int = 0
    free: int = 0

    async def look(self, machine_id: uuid.UUID) -> None:
        # In this order: receipts only ever come, and whoever is begun after the first question is
        # nobody of whom there has to be one.
        last = (
            await Allocation.filter(machine_id=machine_id, generation__gt=0)
            .order_by("-created_at", "-id")
            .first()
        )
        claims = (await claims_of([machine_id])).get(machine_id, {})
        gpus = await Gpu.filter(machine_id=machine_id, removed_at=None)
        availability = of_machine(claims, [gpu.id for gpu in gpus])
        self.looks += 1
        if availability is not Availability.AVAILABLE or last is None:
            return
        self.free += 1
        machine = await Machine.get(id=machine_id)
        receipts = await CleaningReceipt.filter(allocation_id=last.id)
        assert receipts, f"available, without a receipt of {last.id}"
        for receipt in receipts:
            assert receipt.verified or receipt.reason, "neither proven nor answered for"
        assert machine.lifecycle is not Lifecycle.RETIRED


@asynccontextmanager
async def watching(machine_id: uuid.UUID) -> AsyncIterator[Watch]:
    """Look for as long as the block takes, and at the history when it is over."""
    watch = Watch()

    async def forever() -> None:
        while True:
            await watch.look(machine_id)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(forever(), name="watch")
    try:
        yield watch
        assert not task.done(), "the watch ended"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert watch.looks > 10
    await check_history(machine_id)


async def check_history(machine_id: uuid.UUID) -> None:
    """One after the other, each with a receipt of its own between."""
    taken: dict[uuid.UUID, list[Occupancy]] = defaultdict(list)
    rows = Occupancy.filter(machine_id=machine_id).order_by("opened_at", "id")
    for row in await rows.select_related("receipt", "allocation"):
        taken[row.resource_id].append(row)
        over = row.allocation.state in FINAL
        assert over == (row.closed_at is not None), "who is gone holds nothing"
        if row.receipt is None:
            assert row.closed_at is None
            continue
        receipt = row.receipt
        assert receipt.allocation_id == row.allocation_id
        assert receipt.verified != bool(receipt.reason)
        assert row.opened_at <= receipt.finished_at <= (row.closed_at or 0)
        if receipt.verified:
            assert receipt.items
            assert all(item["verified"] for item in receipt.items)
    for occupancies in taken.values():
        for earlier, later in itertools.pairwise(occupancies):
            assert earlier.closed_at is not None, "two owners"
            assert earlier.closed_at <= later.opened_at, "two owners"
            first = await Command.filter(allocation_id=later.allocation_id).order_by("sequence")
            assert first[0].created_at >= earlier.closed_at, "told before it was free"
    for allocation in await Allocation.filter(machine_id=machine_id):
        events = await AllocationEvent.filter(allocation_id=allocation.id).order_by("sequence")
        kinds = [event.kind for event in events]
        if allocation.state in FINAL:
            assert kinds[-1] in {"RELEASED", "FAILED"}
            assert kinds.count("RELEASED") + kinds.count("FAILED") == 1

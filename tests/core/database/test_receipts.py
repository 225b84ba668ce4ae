"""Nothing becomes available without a receipt: tried by SQL, past every service."""

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from tortoise.exceptions import IntegrityError

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Booking, CleaningReceipt, Occupancy
from remotegpu_core.states import AllocationState
from tests.core.hosts import make_machine
from tests.core.people import HOUR, make_user

pytestmark = pytest.mark.usefixtures("database")


@dataclass
class Held:
    """A machine in somebody's hands, being taken back."""

    allocation: Allocation
    booking: Booking
    occupancy: Occupancy

    async def receipt(self, *, verified: bool = True, reason: str | None = None) -> CleaningReceipt:
        return await CleaningReceipt.create(
            allocation=self.allocation, verified=verified, reason=reason, finished_at=now_ms()
        )

    async def close(self, receipt_id: uuid.UUID) -> None:
        await Occupancy.filter(id=self.occupancy.id).update(
            closed_at=now_ms(), receipt_id=receipt_id
        )

    async def move(self, state: AllocationState) -> None:
        await Allocation.filter(id=self.allocation.id).update(state=state)


async def held() -> Held:
    machine, now = await make_machine(), now_ms()
    allocation = await Allocation.create(
        user=await make_user(),
        machine=machine,
        state=AllocationState.RECLAIMING,
        starts_at=now,
        ends_at=now + HOUR,
        created_at=now,
        generation=2,
    )
    given: dict[str, Any] = {
        "allocation": allocation,
        "machine": machine,
        "resource_id": machine.id,
    }
    booking = await Booking.create(**given, starts_at=now, ends_at=now + HOUR)
    return Held(allocation, booking, await Occupancy.create(**given, opened_at=now))


async def test_no_end_and_no_freedom_without_one() -> None:
    one = await held()
    for state in (AllocationState.RELEASED, AllocationState.FAILED):
        with pytest.raises(IntegrityError):
            await one.move(state)
    # Not by giving back what is occupied, nor by forgetting that it is.
    with pytest.raises(IntegrityError):
        await Booking.filter(id=one.booking.id).update(held=False)
    with pytest.raises(IntegrityError):
        await Booking.filter(id=one.booking.id).update(resource_id=uuid.uuid4())
    with pytest.raises(IntegrityError):
        await Booking.filter(id=one.booking.id).delete()
    with pytest.raises(IntegrityError):
        await Occupancy.filter(id=one.occupancy.id).delete()
    with pytest.raises(IntegrityError):
        await Occupancy.filter(id=one.occupancy.id).update(resource_id=uuid.uuid4())

    receipt = await one.receipt()
    # Written, but nothing came back for it yet.
    with pytest.raises(IntegrityError):
        await one.move(AllocationState.RELEASED)
    await one.close(receipt.id)
    await one.move(AllocationState.RELEASED)
    await Booking.filter(id=one.booking.id).update(held=False)


async def test_one_that_a_host_was_told_of_has_a_receipt_also_if_it_holds_nothing() -> None:
    now, user = now_ms(), await make_user()
    told, waited = [
        await Allocation.create(
            user=user, starts_at=now, ends_at=now + HOUR, created_at=now, generation=generation
        )
        for generation in (1, 0)
    ]
    with pytest.raises(IntegrityError):
        await Allocation.filter(id=told.id).update(state=AllocationState.RELEASED)
    await Allocation.filter(id=waited.id).update(state=AllocationState.RELEASED)


async def test_a_receipt_is_of_the_allocation_itself() -> None:
    one, other = await held(), await held()
    theirs = await other.receipt()
    with pytest.raises(IntegrityError):
        await one.close(theirs.id)
    with pytest.raises(IntegrityError):
        await CleaningReceipt.filter(id=theirs.id).update(allocation_id=one.allocation.id)
    await other.close(theirs.id)
    with pytest.raises(IntegrityError):
        await CleaningReceipt.filter(id=theirs.id).delete()


async def test_a_receipt_is_proven_or_somebody_answers_for_it() -> None:
    one = await held()
    with pytest.raises(IntegrityError):
        await one.receipt(verified=False)
    word = await one.receipt(verified=False, reason="wiped by hand")
    for values in ({"verified": True}, {"reason": None}, {"reason": "proven"}):
        with pytest.raises(IntegrityError):
            await CleaningReceipt.filter(id=word.id).update(**values)
    await one.close(word.id)


async def test_what_is_occupied_is_booked() -> None:
    one = await held()
    await one.close((await one.receipt()).id)
    await Booking.filter(id=one.booking.id).update(held=False)
    with pytest.raises(IntegrityError):
        await Occupancy.create(
            allocation=one.allocation,
            machine_id=one.booking.machine_id,
            resource_id=uuid.uuid4(),
            opened_at=now_ms(),
        )

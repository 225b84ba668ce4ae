"""Choosing a place: pure."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from remotegpu_core.services.allocations.placement import Host, Placement, Refused, Slot, place
from remotegpu_core.services.allocations.reason import Reason, ReasonCode
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement

BEGIN, END = 1000, 2000


def slot(index: int, **values: object) -> Slot:
    given = {"model": "NVIDIA H100", "memory": 80, "usable": True, "free_from": BEGIN} | values
    return Slot(gpu_id=uuid.UUID(int=index + 1), index=index, **given)  # type: ignore[arg-type]  # of the right types


def host(number: int, *slots: Slot, **values: object) -> Host:
    given = {"free_from": BEGIN} | values
    return Host(uuid.UUID(int=number), f"host-{number}", slots, **given)  # type: ignore[arg-type]  # of the right types


def gpus(count: int, **values: object) -> AllocateRequest:
    return AllocateRequest(ends_at=END, requirement=Requirement(count, **values))  # type: ignore[arg-type]  # of the right types


def test_fewest_left_over_then_smallest_memory_then_name() -> None:
    four, two = host(1, *map(slot, range(4))), host(2, *map(slot, range(2)))
    small = host(3, slot(0, memory=40), slot(1, memory=40))
    also = host(4, slot(0, memory=40), slot(1, memory=40))
    found = place([four, two, also, small], gpus(2), BEGIN, now=True)
    assert isinstance(found, Placement)
    assert found.machine_id == small.machine_id
    found = place([four, two], gpus(2), BEGIN, now=True)
    assert isinstance(found, Placement)
    assert found.machine_id == two.machine_id


def test_what_is_taken_counts_as_not_there() -> None:
    """A machine with one free GPU of eight is a better place for one than an empty one."""
    full = host(1, *[slot(i, free_from=END) for i in range(7)], slot(7), free_from=END)
    empty = host(2, slot(0), slot(1))
    found = place([empty, full], gpus(1), BEGIN, now=True)
    assert found == Placement(full.machine_id, (uuid.UUID(int=8),), False)


def test_the_smallest_that_will_do() -> None:
    mixed = host(1, slot(0, memory=80), slot(1, memory=24), slot(2, memory=40))
    found = place([mixed], gpus(1, gpu_memory_at_least=30), BEGIN, now=True)
    assert isinstance(found, Placement)
    assert found.gpu_ids == (uuid.UUID(int=3),)


def test_when_it_could_be() -> None:
    busy = host(1, slot(0, free_from=1200), slot(1, free_from=1100), slot(2, free_from=1500))
    for count, from_ in ((1, 1100), (2, 1200), (3, 1500)):
        found = place([busy], gpus(count), BEGIN, now=True)
        assert isinstance(found, Refused)
        assert (found.free_from, found.could_serve) == (from_, frozenset({busy.machine_id}))
    # Beyond its time nobody knows; a reservation is promised all the same.
    overdue = host(2, slot(0, occupied=True), occupied=True)
    found = place([overdue], gpus(1), BEGIN, now=True)
    assert isinstance(found, Refused)
    assert (found.free_from, found.could_serve) == (None, frozenset({overdue.machine_id}))
    assert isinstance(place([overdue], gpus(1), BEGIN, now=False), Placement)


def test_obstacles_and_what_does_not_fit() -> None:
    reason = Reason(ReasonCode.MACHINE_OFFLINE, "away")
    away = host(1, slot(0), obstacles=(reason,))
    named = AllocateRequest(ends_at=END, machine_id=away.machine_id)
    found = place([away], named, BEGIN, now=True)
    assert found == Refused((reason,))
    broken = host(2, slot(0, usable=False))
    for request in (gpus(1), gpus(None, gpu_model="h100")):  # type: ignore[arg-type]  # a whole machine
        found = place([broken, away], request, BEGIN, now=True)
        assert isinstance(found, Refused)
        assert found.could_serve == frozenset()
    # Whoever names a machine may have it with what does not work in it.
    assert isinstance(
        place(
            [broken], AllocateRequest(ends_at=END, machine_id=broken.machine_id), BEGIN, now=True
        ),
        Placement,
    )


_slots = st.lists(
    st.tuples(st.sampled_from([24, 40, 80]), st.booleans(), st.integers(BEGIN, END), st.booleans()),
    max_size=5,
)


@given(st.lists(_slots, max_size=5), st.integers(1, 4), st.integers(0, 80), st.booleans())
def test_whatever_is_placed_fits_and_is_free(
    fleet: list[list[tuple[int, bool, int, bool]]], count: int, memory: int, now: bool
) -> None:
    hosts = [
        host(
            number,
            *[
                slot(i, memory=m, usable=u, free_from=f, occupied=o)
                for i, (m, u, f, o) in enumerate(slots)
            ],
        )
        for number, slots in enumerate(fleet)
    ]
    free = {
        one.machine_id: [
            s
            for s in one.slots
            if s.usable and s.memory >= memory and s.free_from <= BEGIN and not (now and s.occupied)
        ]
        for one in hosts
    }
    found = place(hosts, gpus(count, gpu_memory_at_least=memory), BEGIN, now=now)
    if isinstance(found, Refused):
        assert all(len(slots) < count for slots in free.values())
        assert found.free_from is None or BEGIN < found.free_from < END
        return
    assert len(set(found.gpu_ids)) == count
    assert set(found.gpu_ids) <= {s.gpu_id for s in free[found.machine_id]}


def test_until_when_it_is_taken_at_least() -> None:
    """Beyond the end that is asked for nobody looked: neither free from then, nor unknown."""
    longer = host(1, slot(0, free_from=90_000_000), free_from=90_000_000)
    found = place([longer], gpus(1), BEGIN, now=True)
    assert isinstance(found, Refused)
    assert found.free_from is None
    assert "until 1970-01-02T01:00:00Z at least" in found.reasons[0].message
    # Overdue: not even the holder's own end says when.
    overdue = host(1, slot(0, free_from=BEGIN, occupied=True), occupied=True)
    found = place([overdue], gpus(1), BEGIN, now=True)
    assert isinstance(found, Refused)
    assert "until" not in found.reasons[0].message

from enum import StrEnum

import pytest

from remotegpu_core.states import (
    FINAL,
    TRANSITIONS,
    AllocationState,
    CommandState,
    Health,
    Lifecycle,
    MountState,
    OperationState,
    Presence,
    StepState,
    sources_of,
)

WORK: list[type[StrEnum]] = [AllocationState, OperationState, StepState, MountState, CommandState]
AXES: list[type[StrEnum]] = [Presence, Lifecycle, Health, *WORK]


def test_the_table_holds_every_state_and_nothing_else() -> None:
    assert list(TRANSITIONS) == AXES
    for axis, table in TRANSITIONS.items():
        assert {type(state) for state in table} == {axis}
        assert list(table) == list(axis)


@pytest.mark.parametrize("axis", WORK)
def test_work_comes_to_an_end(axis: type[StrEnum]) -> None:
    """Nothing that is over goes on, though what nobody could tell may be told later."""
    for state, targets in TRANSITIONS[axis].items():
        assert targets or state in FINAL
        if state in FINAL:
            assert targets <= FINAL


@pytest.mark.parametrize("axis", AXES)
def test_a_state_leads_to_other_states_of_its_own_axis(axis: type[StrEnum]) -> None:
    for state in axis:
        assert state not in TRANSITIONS[axis][state]
        assert all(type(target) is axis for target in TRANSITIONS[axis][state])


@pytest.mark.parametrize("axis", AXES)
def test_sources_mirror_the_table(axis: type[StrEnum]) -> None:
    for source in axis:
        for target in axis:
            assert (source in sources_of(target)) == (target in TRANSITIONS[axis][source])


def test_silence_takes_two_steps_and_an_answer_one() -> None:
    assert sources_of(Presence.UNREACHABLE) == {Presence.ONLINE}
    assert sources_of(Presence.LOST) == {Presence.UNREACHABLE}
    assert sources_of(Presence.ONLINE) == {Presence.UNREACHABLE, Presence.LOST}


def test_nothing_leaves_retirement_and_everything_may_retire() -> None:
    assert TRANSITIONS[Lifecycle][Lifecycle.RETIRED] == frozenset()
    assert sources_of(Lifecycle.RETIRED) == set(Lifecycle) - {Lifecycle.RETIRED}


@pytest.mark.parametrize("axis", AXES)
def test_every_state_can_be_reached(axis: type[StrEnum]) -> None:
    first = {Presence: Presence.UNREACHABLE, Lifecycle: Lifecycle.IN_SERVICE}
    start = first.get(axis, next(iter(axis)))
    reached, front = {start}, [start]
    while front:
        for target in TRANSITIONS[axis][front.pop()] - reached:
            reached.add(target)
            front.append(target)
    assert reached == set(axis)

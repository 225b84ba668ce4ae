from enum import StrEnum

import pytest

from remotegpu_core.states import TRANSITIONS, Health, Lifecycle, Presence, sources_of

AXES: list[type[StrEnum]] = [Presence, Lifecycle, Health]


def test_the_table_holds_every_state_and_nothing_else() -> None:
    # As a list, since equal values of different enums would be one key of a set.
    states = [(type(state), state) for state in TRANSITIONS]
    assert sorted(map(str, states)) == sorted(str((axis, state)) for axis in AXES for state in axis)


@pytest.mark.parametrize("axis", AXES)
def test_a_state_leads_to_other_states_of_its_own_axis(axis: type[StrEnum]) -> None:
    for state in axis:
        assert state not in TRANSITIONS[state]
        assert all(type(target) is axis for target in TRANSITIONS[state])


@pytest.mark.parametrize("axis", AXES)
def test_sources_mirror_the_table(axis: type[StrEnum]) -> None:
    for source in axis:
        for target in axis:
            assert (source in sources_of(target)) == (target in TRANSITIONS[source])


def test_silence_takes_two_steps_and_an_answer_one() -> None:
    assert sources_of(Presence.UNREACHABLE) == {Presence.ONLINE}
    assert sources_of(Presence.LOST) == {Presence.UNREACHABLE}
    assert sources_of(Presence.ONLINE) == {Presence.UNREACHABLE, Presence.LOST}


def test_nothing_leaves_retirement_and_everything_may_retire() -> None:
    assert TRANSITIONS[Lifecycle.RETIRED] == frozenset()
    assert sources_of(Lifecycle.RETIRED) == set(Lifecycle) - {Lifecycle.RETIRED}


@pytest.mark.parametrize("axis", AXES)
def test_every_state_can_be_reached(axis: type[StrEnum]) -> None:
    first = {Presence: Presence.UNREACHABLE, Lifecycle: Lifecycle.IN_SERVICE}
    start = first.get(axis, next(iter(axis)))
    reached, front = {start}, [start]
    while front:
        for target in TRANSITIONS[front.pop()] - reached:
            reached.add(target)
            front.append(target)
    assert reached == set(axis)

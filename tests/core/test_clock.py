"""The process's clock: the wall clock without its leaps."""

import pytest

from remotegpu_core.clock import CLOCK, TOLERANCE, Clock, now_ms
from tests.core.clocks import WoundClock

DAY = 86_400_000
NOW = 1_800_000_000_000


def test_it_is_the_wall_clock() -> None:
    assert abs(now_ms() - Clock.wall()) < 1000
    assert CLOCK.leap() == 0


def test_small_corrections_are_followed() -> None:
    clock = WoundClock(NOW)
    for _ in range(10):
        clock.wall_now -= TOLERANCE - 1
        clock.pass_by(1000)
        assert (clock.now(), clock.leap()) == (clock.wall_now, 0)


@pytest.mark.parametrize("leap", [DAY, -DAY, TOLERANCE + 1])
def test_a_leap_is_not_time_that_passed(leap: int) -> None:
    clock = WoundClock(NOW)
    clock.wall_now += leap
    clock.pass_by(3000)
    assert (clock.now(), clock.leap()) == (NOW + 3000, leap)
    # It comes back.
    clock.wall_now -= leap - 7
    assert (clock.now(), clock.leap()) == (NOW + 3007, 0)


def test_a_leap_that_is_confirmed_is_the_time() -> None:
    clock = WoundClock(NOW)
    clock.wall_now += DAY
    clock.adopt()
    clock.pass_by(5)
    assert (clock.now(), clock.leap()) == (NOW + DAY + 5, 0)

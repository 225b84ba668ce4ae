from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu_protocol.allowance import Allowance


def test_a_burst_then_the_rate() -> None:
    allowance = Allowance(rate=2.0, burst=3.0, now=10.0)

    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(10.5) for _ in range(2)] == [True, False]
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(rate=1.0, burst=1.0, now=10.0)
    assert allowance.take(10.0)
    assert not allowance.take(5.0)
    assert not allowance.take(10.5)
    assert allowance.take(11.0)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.floats(min_value=0, max_value=5), max_size=100))
def test_never_more_than_burst_and_rate_together(steps: list[float]) -> None:
    allowance = Allowance(rate=2.0, burst=5.0, now=0.0)
    now = 0.0
    taken = 0
    for step in steps:
        now += step
        taken += allowance.take(now)
    assert taken <= 5 + 2 * now + 1e-6

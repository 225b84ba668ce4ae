"""Waits between attempts."""

import random

from remotegpu_agent.backoff import Backoff, Pauses


def test_the_first_wait_is_short_and_random() -> None:
    waits = [Backoff().next_pause() for _ in range(500)]
    assert min(waits) >= 0.2
    assert max(waits) <= 3.0
    assert max(waits) - min(waits) > 2.0


def test_waits_double_up_to_the_cap() -> None:
    bounds: list[tuple[float, float]] = []

    def highest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    backoff = Backoff(uniform=highest)
    assert [backoff.next_pause() for _ in range(6)] == [3.0, 6.0, 12.0, 15.0, 15.0, 15.0]
    assert {low for low, _ in bounds} == {0.2}
    backoff.succeeded()
    assert backoff.next_pause() == 3.0


def test_a_permanent_refusal_waits_a_minute_with_jitter() -> None:
    waits = [Backoff().next_pause(permanent=True) for _ in range(500)]
    assert min(waits) >= 48.0
    assert max(waits) <= 72.0
    assert max(waits) - min(waits) > 12.0


def test_a_year_of_failures_overflows_nothing() -> None:
    backoff = Backoff(Pauses(), uniform=random.Random(1).uniform)
    assert all(0.2 <= backoff.next_pause() <= 15.0 for _ in range(5000))


def test_a_large_fleet_spreads_its_first_attempts() -> None:
    backoff = Backoff(uniform=lambda _low, high: high)
    backoff.succeeded(spread=25.0)
    assert [backoff.next_pause() for _ in range(3)] == [25.0, 25.0, 25.0]
    backoff.succeeded(spread=1.0)
    assert backoff.next_pause() == 3.0


def test_it_comes_back_when_it_was_asked_to_within_bounds() -> None:
    for asked, low, high in ((10.0, 10.0, 12.0), (0.0, 0.2, 0.24), (1e9, 60.0, 72.0)):
        backoff = Backoff()
        waits = [backoff.next_pause(retry_after=asked) for _ in range(100)]
        assert min(waits) >= low
        assert max(waits) <= high
        # It was not a failure.
        assert Backoff(uniform=lambda _low, high: high).next_pause() == 3.0

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

import math

import pytest

from remotegpu_protocol.values import MAX_SAFE_INTEGER, plausible, plausible_int


@pytest.mark.parametrize("value", [0, 0.0, 50, 99.9, 100.0])
def test_plausible_values_stay(value: float) -> None:
    assert plausible(value, 0, 100) == value


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, -0.1, 100.1, 10**400])
def test_implausible_values_are_null(value: float | None) -> None:
    assert plausible(value, 0, 100) is None


@pytest.mark.parametrize("value", [0, 1, MAX_SAFE_INTEGER])
def test_plausible_integers_stay(value: int) -> None:
    assert plausible_int(value) == value


@pytest.mark.parametrize("value", [None, -1, MAX_SAFE_INTEGER + 1, 2**64 - 1])
def test_implausible_integers_are_null(value: int | None) -> None:
    assert plausible_int(value) is None

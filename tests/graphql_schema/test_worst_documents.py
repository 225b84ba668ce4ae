"""Whatever the bounds let through is read soon."""

import pytest
from hypothesis import HealthCheck, given, settings, target

from tests.graphql_schema.worst_documents import (
    MOST_CALLS,
    MOST_CALLS_OF_STRANGERS,
    WORST,
    Recipe,
    calls_of,
    read_anew,
    recipes,
)


@pytest.mark.parametrize("name", WORST)
def test_dearest_documents_that_were_found(name: str) -> None:
    """The longest searches found these; reading them takes no more than then."""
    recipe = WORST[name]
    source = recipe.fitting()
    read_anew("{ __typename }")
    assert 20_000 < calls_of(lambda: read_anew(source)) < MOST_CALLS
    of_stranger = recipe.fitting(signed_in=False)
    calls = calls_of(lambda: read_anew(of_stranger, signed_in=False))
    assert calls < MOST_CALLS_OF_STRANGERS


@settings(max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_search(recipe: Recipe) -> None:
    """A short one; `make soak` has the long one."""
    source = recipe.fitting()
    calls = calls_of(lambda: read_anew(source))
    target(float(calls))
    assert calls < MOST_CALLS, source

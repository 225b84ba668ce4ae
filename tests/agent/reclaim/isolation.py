"""Whether a test runs on a host of its own."""

import os

#: Not one of REMOTEGPU_..., which tests do not see.
INSIDE = "RECLAIM_TEST_INSIDE"


def is_isolated() -> bool:
    return INSIDE in os.environ


def require_isolation() -> None:
    """Before anything is done to the host; fixtures run outside too."""
    assert is_isolated(), "mark the test with isolated"

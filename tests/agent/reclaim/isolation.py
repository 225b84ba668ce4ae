"""Whether a test runs on a host of its own."""

import os

#: The process of the outer test. Not one of REMOTEGPU_..., which tests do not see.
INSIDE = "RECLAIM_TEST_INSIDE"


def is_isolated() -> bool:
    return INSIDE in os.environ


def require_isolation() -> None:
    """Before anything is done to the host; fixtures run outside too."""
    assert is_isolated(), "mark the test with isolated"


def own_uid(number: int) -> int:
    """A user id of this test, `number` of it (below 64): the kernel has one keyring and one count of
    processes for each, on all hosts that tests make at the same time."""
    require_isolation()
    return 20_000 + 64 * (int(os.environ[INSIDE]) % 300) + number

"""Many signed links, a sample a second and a heartbeat every five: nothing lost, nothing grows."""

import os
import shutil
import statistics

import pytest

from bench.cores import CLIENT, SERVER
from bench.ingest import steady_product
from bench.links import Window
from bench.plan import Timing
from bench.workspace import workspace

#: Seconds; `make soak` says how long.
LONG = float(os.environ.get("SOAK_SECONDS") or 600)
#: Seconds of a window, and seconds' worth of samples that may be on their way when it ends.
WINDOW = 5.0
UNDER_WAY = 1.0

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the load client is C"),
    pytest.mark.skipif(
        not {SERVER, CLIENT} <= os.sched_getaffinity(0), reason="the load client has its own core"
    ),
]


def _load(links: int, seconds: float, *, agents: int) -> list[Window]:
    timing = Timing(5, WINDOW, max(2, round(seconds / WINDOW)))
    # The load client fails as soon as the server closes one of its links.
    with workspace() as space:
        return steady_product(space, links, timing, agents=agents)


def _nothing_lost(windows: list[Window], links: int) -> None:
    sent, stored = (sum(getattr(window, name) for window in windows) for name in ("sent", "stored"))
    seconds = sum(window.seconds for window in windows)
    assert sent == pytest.approx(links * seconds, rel=0.05), "the load client fell behind"
    assert stored >= sent - UNDER_WAY * links


def test_links_for_a_moment() -> None:
    links = 200
    windows = _load(links, 10, agents=0)
    _nothing_lost(windows, links)
    assert sum(window.stored for window in windows) <= links * (10 + UNDER_WAY) * 1.05


@pytest.mark.soak
@pytest.mark.timeout(LONG + 900)
def test_two_thousand_links_for_long() -> None:
    links = 2000
    windows = _load(links, LONG, agents=20)
    _nothing_lost(windows, links)
    resident = [window.resident_kib / 1024 for window in windows]
    tenth = max(1, len(resident) // 10)
    early = statistics.median(resident[tenth : 3 * tenth] or resident)
    late = statistics.median(resident[-2 * tenth :])
    assert late - early < 8, f"{early:.0f} MiB became {late:.0f}"

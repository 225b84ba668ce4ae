"""How long and how often everything is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds before anything is measured, then so many windows of so many seconds."""

    warm_up: float
    seconds: float
    windows: int

    @property
    def options(self) -> list[str]:
        """As the load client takes them."""
        return [
            *("--warm-up", str(self.warm_up)),
            *("--seconds", str(self.seconds)),
            *("--windows", str(self.windows)),
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds are of one measured window.

    In each of `rounds`, every server is started anew and measured in `windows`; more rounds show
    more of the machine's noise, more windows are faster. Dispatch needs some 125 commands a window
    for a p99. No `signed_links`, no such benchmark.
    """

    name: str
    rounds: int
    windows: int
    warm_up: float
    fanout_seconds: float
    dashboard_seconds: float
    ingest_seconds: float
    query_seconds: float
    agent_seconds: float
    dispatch_seconds: float
    idle_subscribers: int
    signed_links: int
    all_peers: bool

    def timing(self, seconds: float) -> Timing:
        return Timing(self.warm_up, seconds, self.windows)


FULL = Plan(
    "full",
    rounds=3,
    windows=1,
    warm_up=1,
    fanout_seconds=5,
    dashboard_seconds=10,
    ingest_seconds=5,
    query_seconds=4,
    agent_seconds=20,
    dispatch_seconds=5,
    idle_subscribers=1000,
    signed_links=2000,
    all_peers=True,
)
QUICK = Plan(
    "quick",
    rounds=1,
    windows=3,
    warm_up=0.3,
    fanout_seconds=0.5,
    dashboard_seconds=1,
    ingest_seconds=0.5,
    query_seconds=0.4,
    agent_seconds=1.3,
    dispatch_seconds=2.5,
    idle_subscribers=100,
    signed_links=0,
    all_peers=False,
)

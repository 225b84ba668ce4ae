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
    more of the machine's noise, more windows are faster. No `signed_links`, no such benchmark.
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
    idle_subscribers: int
    signed_links: int
    all_peers: bool

    def timing(self, seconds: float) -> Timing:
        return Timing(self.warm_up, seconds, self.windows)


FULL = Plan("full", 3, 1, 1, 5, 10, 5, 4, 20, 1000, 2000, all_peers=True)
QUICK = Plan("quick", 1, 3, 0.3, 0.5, 1, 0.5, 0.4, 1.5, 100, 0, all_peers=False)

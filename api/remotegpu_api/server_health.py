"""One server process in numbers, as prometheus-client's families."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from remotegpu_api.state import ServerState
from remotegpu_api.telemetry import Telemetry
from remotegpu_core.exposition.fleet import FleetText


@dataclass(frozen=True, slots=True)
class Health:
    """Counts of one moment."""

    replica_id: str
    agents: int
    viewers: int
    subscriptions: int
    groups: int
    executions: int
    watched_machines: int
    bus_pending: int
    bus_dropped: int
    samples_superseded: int
    refusals_summed_up: int
    tasks: int
    database_up: bool
    bus_up: bool


def health_of(state: ServerState, telemetry: Telemetry, fleet: FleetText) -> Health:
    """The process's health now; `fleet` tells what answered this scrape."""
    hub, plane = state.hub, state.plane
    writer = plane.bus.writer
    return Health(
        replica_id=str(plane.replica_id),
        agents=len(state.gateway.links),
        viewers=len(hub.sockets),
        subscriptions=sum(len(socket.operations) for socket in hub.sockets),
        groups=len(hub.groups),
        executions=telemetry.executions(hub),
        watched_machines=len(plane.samples.watched),
        bus_pending=writer.pending,
        bus_dropped=writer.dropped,
        samples_superseded=writer.superseded,
        refusals_summed_up=plane.refusals.summed_up,
        tasks=len(asyncio.all_tasks()),
        database_up=fleet.database_up and plane.database.health.trouble is None,
        bus_up=fleet.bus_up and plane.bus.trouble is None,
    )


class HealthCollector(Collector):
    """A process's health and what it measured, for one scrape. Runs on any thread."""

    def __init__(self, health: Health, telemetry: Telemetry) -> None:
        self._health = health
        self._telemetry = telemetry

    def collect(self) -> Iterable[Metric]:
        health = self._health
        info = GaugeMetricFamily(
            "remotegpu_server_info", "This process.", labels=("version", "replica")
        )
        info.add_metric((_version(), health.replica_id), 1)
        yield info
        for name, text, value in (
            ("agents_connected", "Machines whose links this process holds.", health.agents),
            ("viewers_connected", "Live viewers' sockets.", health.viewers),
            (
                "subscriptions_active",
                "Operations that run on viewers' sockets.",
                health.subscriptions,
            ),
            (
                "groups_active",
                "Groups of equal subscriptions that share executions.",
                health.groups,
            ),
            (
                "machines_watched",
                "Machines whose samples viewers here follow.",
                health.watched_machines,
            ),
            (
                "tasks_running",
                "Tasks on the event loop: a few for each link and viewer, and no more.",
                health.tasks,
            ),
            (
                "bus_writes_pending",
                "Writes to Redis that wait for a round trip.",
                health.bus_pending,
            ),
        ):
            yield GaugeMetricFamily(f"remotegpu_{name}", text, value)
        for name, text, value in (
            ("executions", "Executions of shared subscriptions.", health.executions),
            (
                "bus_writes_dropped",
                "Writes that were lost while Redis was away.",
                health.bus_dropped,
            ),
            (
                "samples_superseded",
                "Samples that newer ones of their link replaced while Redis was slow.",
                health.samples_superseded,
            ),
            (
                "refusals_summed_up",
                "Refusals of callers without sign-in, which the audit trail has summed up.",
                health.refusals_summed_up,
            ),
        ):
            yield CounterMetricFamily(f"remotegpu_{name}", text, value)
        up = GaugeMetricFamily(
            "remotegpu_dependency_up",
            "1 when it answered this scrape and takes changes; what one that does not answer "
            "tells is left out.",
            labels=("dependency",),
        )
        up.add_metric(("database",), int(health.database_up))
        up.add_metric(("bus",), int(health.bus_up))
        yield up
        yield from self._telemetry.collect()


@cache
def _version() -> str:
    try:
        return version("remotegpu")
    except PackageNotFoundError:
        # A bare source tree.
        return ""

"""GET /metrics: this process's share of the fleet, and its own health."""

import asyncio
import hmac
import ipaddress
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from remotegpu_api.callers import bearer_token, source_address
from remotegpu_api.state import ServerState, state_of
from remotegpu_api.telemetry import Telemetry
from remotegpu_core.exposition.fleet import FleetText, expose_fleet
from remotegpu_core.exposition.machines import HeldMachines
from remotegpu_core.settings import Settings


class PrometheusEndpoint:
    """Answers scrapes, one at a time: several at once would only make each slower."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._machines: HeldMachines | None = None
        self._lock = asyncio.Lock()

    async def scrape(self, request: Request) -> Response:
        state = state_of(request)
        refusal = refuse(request, state.plane.settings)
        if refusal is not None:
            return refusal
        if self._machines is None:
            self._machines = HeldMachines(state.plane.bus)
        async with self._lock:
            fleet = await expose_fleet(
                self._machines,
                {machine_id: link.epoch for machine_id, link in state.gateway.links.items()},
                replica_id=state.plane.replica_id,
                started_at=state.plane.started_at,
            )
        health = HealthCollector(_health(state, self._telemetry, fleet), self._telemetry)
        # Off the loop: prometheus-client takes milliseconds, and reads /proc.
        own = await asyncio.to_thread(generate_latest, health)
        return StreamingResponse(
            _chunks(own, fleet.chunks),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"},
        )


def refuse(request: Request, settings: Settings) -> Response | None:
    """Why this caller may not read metrics, as an answer; None for one who may.

    The token, or an address in the allowed networks; without either setting, only this host.
    """
    token = settings.metrics_token
    given = bearer_token(request)
    if token is not None and given is not None:
        expected = token.get_secret_value().encode()
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            return None
    address = _address(request, settings)
    if address is not None and any(address in network for network in settings.metrics_allow):
        return None
    if token is not None:
        return PlainTextResponse(
            "Metrics are read with the header 'Authorization: Bearer TOKEN', TOKEN being "
            "REMOTEGPU_METRICS_TOKEN of this server.\n",
            401,
            headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
        )
    shown = address or "an unknown address"
    if settings.metrics_allow:
        return PlainTextResponse(
            f"Metrics are for the networks in REMOTEGPU_METRICS_ALLOW, and {shown} is in none of "
            "them.\n",
            403,
        )
    if address is not None and address.is_loopback:
        return None
    return PlainTextResponse(
        f"Metrics are for this host alone, and not for {shown}, until REMOTEGPU_METRICS_TOKEN or "
        "REMOTEGPU_METRICS_ALLOW is set.\n",
        403,
    )


def _address(
    request: Request, settings: Settings
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    peer = request.client.host if request.client else None
    if peer not in settings.trusted_proxies and _is_forwarded(request):
        # Some proxy stands between, and its address says nothing about who asks.
        return None
    try:
        address = ipaddress.ip_address(source_address(request, settings) or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_forwarded(request: Request) -> bool:
    return any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))


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
    database_up: bool
    bus_up: bool


def _health(state: ServerState, telemetry: Telemetry, fleet: FleetText) -> Health:
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
        bus_pending=len(writer._pending),  # noqa: SLF001 - the writer has no other use for telling
        bus_dropped=writer.dropped,
        database_up=fleet.database_up,
        bus_up=fleet.bus_up,
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
        ):
            yield CounterMetricFamily(f"remotegpu_{name}", text, value)
        up = GaugeMetricFamily(
            "remotegpu_dependency_up",
            "1 when it answered this scrape; without it, what it tells is left out.",
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


async def _chunks(own: bytes, fleet: Iterable[bytes]) -> AsyncIterator[bytes]:
    yield own
    for chunk in fleet:
        yield chunk

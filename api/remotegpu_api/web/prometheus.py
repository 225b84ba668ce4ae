"""GET /metrics: this process's share of the fleet, and its own health."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from remotegpu_api.server_health import HealthCollector, health_of
from remotegpu_api.state import state_of
from remotegpu_api.telemetry import Telemetry
from remotegpu_api.web.metrics_guard import refuse
from remotegpu_core.exposition.fleet import expose_fleet
from remotegpu_core.exposition.machines import HeldMachines


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
        health = HealthCollector(health_of(state, self._telemetry, fleet), self._telemetry)
        # Off the loop: prometheus-client takes milliseconds, and reads /proc.
        own = await asyncio.to_thread(generate_latest, health)
        return StreamingResponse(
            _chunks(own, fleet.chunks),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"},
        )


async def _chunks(own: bytes, fleet: Iterable[bytes]) -> AsyncIterator[bytes]:
    yield own
    for chunk in fleet:
        yield chunk

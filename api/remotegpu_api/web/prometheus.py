"""GET /metrics: this process's share of the fleet, and its own health."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from remotegpu_api.server_health import HealthCollector, health_of
from remotegpu_api.state import state_of
from remotegpu_api.telemetry import Telemetry
from remotegpu_api.web.metrics_choice import choice_of
from remotegpu_api.web.metrics_guard import refuse
from remotegpu_core.errors import InvalidInput
from remotegpu_core.exposition.fleet import Group, expose_fleet
from remotegpu_core.exposition.machines import HeldMachines

#: Scrapes that are answered or wait for their turn.
MAX_SCRAPES: Final = 8

#: Seconds in which a scrape must have been read.
READ_TIMEOUT: Final = 60.0

#: zlib's; higher ones take longer and save little of such text.
_COMPRESSION: Final = 1
#: Bytes that are compressed at a time, off the loop.
_AT_ONCE: Final = 256 * 1024


class PrometheusEndpoint:
    """Answers scrapes, one at a time: several at once would only make each slower."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._machines: HeldMachines | None = None
        self._lock = asyncio.Lock()
        self._scrapes = 0

    async def scrape(self, request: Request) -> Response:
        state = state_of(request)
        refusal = refuse(request, state.plane.settings)
        if refusal is not None:
            return refusal
        try:
            choice = choice_of(request.query_params)
        except InvalidInput as error:
            return PlainTextResponse(f"{error.message}\n", 400)
        if self._scrapes >= MAX_SCRAPES:
            return PlainTextResponse(
                f"{MAX_SCRAPES} scrapes are being answered: scrape less often.\n",
                503,
                headers={"Retry-After": "5"},
            )
        if self._machines is None:
            self._machines = HeldMachines(state.plane.bus)
        self._scrapes += 1
        try:
            async with self._lock:
                fleet = await expose_fleet(
                    self._machines,
                    {machine_id: link.epoch for machine_id, link in state.gateway.links.items()},
                    replica_id=state.plane.replica_id,
                    started_at=state.plane.started_at,
                    choice=choice,
                )
            own = b""
            if Group.SERVER in choice.groups:
                health = HealthCollector(health_of(state, self._telemetry, fleet), self._telemetry)
                # Off the loop: prometheus-client takes milliseconds, and reads /proc.
                own = await asyncio.to_thread(generate_latest, health)
        except BaseException:
            self._scrapes -= 1
            raise
        headers = {
            "Content-Type": CONTENT_TYPE_PLAIN_0_0_4,
            "Cache-Control": "no-store",
            "Vary": "Accept-Encoding",
        }
        text = _after(own, fleet.chunks)
        if takes_gzip(request.headers):
            headers["Content-Encoding"] = "gzip"
            text = _compressed(text)
        return _Scrape(text, headers, self)

    def ended(self) -> None:
        """A scrape was read, or its reader is gone."""
        self._scrapes -= 1


class _Scrape(StreamingResponse):
    """Text that is made while it is read. A reader that stands still is left."""

    def __init__(
        self, text: AsyncIterator[bytes], headers: dict[str, str], endpoint: PrometheusEndpoint
    ) -> None:
        super().__init__(text, headers=headers)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                await super().__call__(scope, receive, send)
        finally:
            self._endpoint.ended()


def takes_gzip(headers: Headers) -> bool:
    """Whether the caller accepts gzip: it is named, or all is, and not with a weight of 0."""
    weights: dict[str, bool] = {}
    for part in headers.get("accept-encoding", "").lower().split(","):
        coding, *parameters = (word.strip() for word in part.split(";"))
        zero = any(
            word.replace(" ", "") in {"q=0", "q=0.0", "q=0.00", "q=0.000"} for word in parameters
        )
        weights[coding] = not zero
    return weights.get("gzip", weights.get("*", False))


async def _after(own: bytes, fleet: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if own:
        yield own
    async for chunk in fleet:
        yield chunk


async def _compressed(text: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    gzip = zlib.compressobj(_COMPRESSION, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    waiting = bytearray()
    async for chunk in text:
        waiting += chunk
        if len(waiting) >= _AT_ONCE:
            packed = await asyncio.to_thread(gzip.compress, bytes(waiting))
            waiting.clear()
            if packed:
                yield packed
    packed = await asyncio.to_thread(gzip.compress, bytes(waiting))
    yield packed + gzip.flush()

"""What one server process measures about itself, all the time and cheaply."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from remotegpu_api.live.hub import Hub
from remotegpu_core.tasks import end, keep_running

#: Seconds between two looks at the event loop and at the groups.
_TICK: Final = 0.25

_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# Callers choose methods and paths: what is not known gets one name, or they would choose how many
# series there are.
_METHODS: Final = frozenset({"GET", "HEAD", "POST"})
_OTHER: Final = "other"


class Telemetry:
    """A registry of this process's own; prometheus-client's global one is not used."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.lag = Histogram(
            "remotegpu_event_loop_lag_seconds",
            "How much later than asked for the event loop came back to a timer.",
            buckets=_LAG_BUCKETS,
            registry=self._registry,
        )
        self.requests = Histogram(
            "remotegpu_http_request_duration_seconds",
            "From a request's first byte here to the last byte of its answer.",
            ("method", "path", "status"),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._executions = Executions()

    @contextlib.asynccontextmanager
    async def measuring(self, hub: Hub) -> AsyncIterator[None]:
        """Watch the event loop and the hub until the block ends."""

        async def tick() -> None:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            self.lag.observe(max(0.0, time.perf_counter() - due))
            self._executions.look(hub.groups.values())

        task = asyncio.create_task(keep_running("telemetry", tick), name="telemetry")
        try:
            yield
        finally:
            await end(task)

    def executions(self, hub: Hub) -> int:
        return self._executions.look(hub.groups.values())

    def collect(self) -> Iterable[Metric]:
        """What the registry holds, without the `_created` series, which nobody asks for."""
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class Counted(Protocol):
    @property
    def executions(self) -> int: ...


class Executions:
    """Adds up what groups count each for themselves, past their end.

    Of a group that begins and ends between two looks nothing is counted.
    """

    def __init__(self) -> None:
        self._ended = 0
        self._seen: set[Counted] = set()

    def look(self, groups: Iterable[Counted]) -> int:
        """Executions until now, those of the groups that are there included."""
        now = set(groups)
        self._ended += sum(group.executions for group in self._seen - now)
        self._seen = now
        return self._ended + sum(group.executions for group in now)


class TimedRequests:
    """ASGI middleware that measures HTTP requests. Websockets pass through untouched."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Until something is answered: an exception becomes a 500 further out.
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _OTHER
            self._telemetry.requests.labels(method, _path(scope), str(status)).observe(
                time.perf_counter() - began
            )


def _path(scope: Scope) -> str:
    app: Starlette = scope["app"]
    return next((name for route in app.routes if (name := _matches(route, scope["path"]))), _OTHER)


def _matches(route: BaseRoute, path: str) -> str | None:
    if isinstance(route, Route) and route.path == path:
        return route.path
    if isinstance(route, Mount) and path.startswith(f"{route.path}/"):
        return route.path
    return None

"""The ASGI application."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from remotegpu_api.gateway.gateway import Gateway
from remotegpu_api.live.hub import Hub
from remotegpu_api.live.socket import serve_viewer
from remotegpu_api.state import ServerState, state_of
from remotegpu_api.telemetry import Telemetry, TimedRequests
from remotegpu_api.web.cross_origin import CrossOrigin
from remotegpu_api.web.graphql_endpoint import graphql_endpoint
from remotegpu_api.web.health import database_away, healthz, livez
from remotegpu_api.web.lost_callers import to_whoever_is_there
from remotegpu_api.web.pages import assets
from remotegpu_api.web.prometheus import PrometheusEndpoint
from remotegpu_api.web.sessions import create_session, end_session, sign_in_page
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_graphql.engine import Engine


async def agent_endpoint(websocket: WebSocket) -> None:
    await state_of(websocket).gateway.serve(websocket)


class LiveEndpoint:
    """An ASGI application rather than a function, to get at the server's own `send`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        await serve_viewer(websocket, send, state_of(websocket).hub)


async def root(_request: Request) -> Response:
    return RedirectResponse("/graphql")


class Application(Starlette):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http"
        await super().__call__(scope, receive, to_whoever_is_there(send) if is_http else send)


def create_app(plane: ControlPlane) -> Starlette:
    """An application over a control plane that is open already and outlives it."""
    telemetry = Telemetry()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine = Engine()
        state = ServerState(plane, engine, Hub(plane, engine), Gateway(plane))
        app.state.server = state
        await state.gateway.start()
        state.hub.start()
        try:
            async with telemetry.measuring(state.hub):
                yield
        finally:
            await state.hub.stop()
            await state.gateway.stop()

    app = Application(
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(DATABASE_ERRORS, database_away),
        middleware=[
            Middleware(TimedRequests, telemetry),
            Middleware(CrossOrigin, path="/graphql", origins=plane.settings.allowed_origins),
        ],
        routes=[
            Route("/", root),
            Route("/graphql", graphql_endpoint, methods=["GET", "POST", "OPTIONS"]),
            WebSocketRoute("/graphql", LiveEndpoint()),
            WebSocketRoute("/agent", agent_endpoint),
            Route("/sign-in", sign_in_page, methods=["GET"]),
            Route("/sign-in", create_session, methods=["POST"]),
            Route("/sign-out", end_session, methods=["POST"]),
            Route("/livez", livez),
            Route("/healthz", healthz),
            Route("/metrics", PrometheusEndpoint(telemetry).scrape, methods=["GET"]),
            Mount("/static", assets()),
        ],
    )
    # A redirect for a slash would lead to the name in the Host header, which is anybody's.
    app.router.redirect_slashes = False
    return app

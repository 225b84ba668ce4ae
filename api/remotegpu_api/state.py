"""What one server process holds, where its endpoints find it."""

from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection

from remotegpu_api.arrivals import Arrivals
from remotegpu_api.gateway.gateway import Gateway
from remotegpu_api.live.hub import Hub
from remotegpu_api.places import Places
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.engine import Engine


@dataclass(eq=False, slots=True)
class ServerState:
    plane: ControlPlane
    engine: Engine
    hub: Hub
    gateway: Gateway
    #: HTTP requests that are worked on, of signed-in callers and of others.
    requests: Places = field(default_factory=lambda: Places("requests", "user"))
    anonymous_requests: Places = field(
        default_factory=lambda: Places("requests without sign-in", "address")
    )
    #: Their bodies that are on the way.
    bodies: Arrivals = field(default_factory=Arrivals)
    anonymous_bodies: Arrivals = field(default_factory=Arrivals)


def state_of(connection: HTTPConnection) -> ServerState:
    return cast("ServerState", connection.app.state.server)

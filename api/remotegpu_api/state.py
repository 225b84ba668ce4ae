"""What one server process holds, where its endpoints find it."""

from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection

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
    #: HTTP requests that are worked on.
    requests: Places = field(default_factory=lambda: Places("requests", "address"))


def state_of(connection: HTTPConnection) -> ServerState:
    return cast("ServerState", connection.app.state.server)

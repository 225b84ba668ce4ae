"""What subscriptions may watch now, asked once for all that ask the same."""

from collections.abc import Mapping
from typing import Any

from remotegpu_api.encoding import encode_json
from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import RemoteGPUError
from remotegpu_graphql.engine import Engine, Operation
from remotegpu_graphql.shared_operation import BadVariables
from remotegpu_graphql.sharing import Stream

#: Streams, or why there are none.
Planned = list[Stream] | RemoteGPUError | BadVariables


class Plans:
    """Of one moment: made when rights changed, and thrown away after."""

    def __init__(self, plane: ControlPlane, engine: Engine) -> None:
        self._plane = plane
        self._engine = engine
        self._known: dict[tuple[object, ...], Planned] = {}

    async def streams(
        self, operation: Operation, variables: Mapping[str, Any], actor: Actor
    ) -> list[Stream]:
        """Raises RemoteGPUError or BadVariables like `SubscriptionShape.plan`."""
        key = (
            operation.source,
            operation.name,
            encode_json(variables),
            actor.user_id,
            actor.role,
            actor.scopes,
        )
        planned = self._known.get(key)
        if planned is None:
            try:
                shape = self._engine.shape(operation)
                planned = await shape.plan(self._plane, actor, variables)
            except (RemoteGPUError, BadVariables) as error:
                planned = error
            self._known[key] = planned
        if isinstance(planned, Exception):
            raise planned
        return planned

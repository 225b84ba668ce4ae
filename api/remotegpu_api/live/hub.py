"""The hub: the sockets of this process, the groups that they share, and who may still watch."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from remotegpu_api.arrivals import Arrivals
from remotegpu_api.live.group import Group, GroupKey
from remotegpu_api.live.messages import CloseCode
from remotegpu_api.live.plans import Plans
from remotegpu_api.places import Places, share_of_strangers
from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.networks import caller_network
from remotegpu_core.services.sign_in import still_valid
from remotegpu_core.tasks import end, keep_running
from remotegpu_core.versions import Topic
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Engine, Operation
from remotegpu_graphql.sharing import Stream

if TYPE_CHECKING:
    from remotegpu_api.live.socket import Socket


_ASKING: Final = 64


class Hub:
    """One per process. `sockets` are those that have said who they are, `running` is how many
    operations they have in all."""

    def __init__(self, plane: ControlPlane, engine: Engine) -> None:
        self.plane = plane
        self.engine = engine
        self.sockets: set[Socket] = set()
        self.running = 0
        #: Sockets that have not said who they are, those of signed-in viewers, and the others.
        self.arrivals = Arrivals()
        self.of_users = Places("live viewers", "user")
        self.of_strangers = Places("live viewers without sign-in", "address")
        self.groups: dict[GroupKey, Group] = {}
        # No viewer: what is executed here goes to whoever has the same key.
        self._context = Context(plane, None)
        #: Viewers whose rights are looked up at a time. After a restart all come at once, and a
        #: query in flight for each of them would need more memory than the viewers themselves.
        self.asking = asyncio.Semaphore(_ASKING)
        self._task: asyncio.Task[None] | None = None

    def place_of(self, viewer: Actor) -> AbstractContextManager[None]:
        """A place for a viewer's socket; entering raises Overloaded. Some are kept for users."""
        settings = self.plane.settings
        total = settings.max_sockets
        if viewer.is_signed_in:
            return self.of_users.take(
                viewer.user_id,
                total=total - self.of_strangers.taken,
                each=settings.max_sockets_per_user,
            )
        return self.of_strangers.take(
            caller_network(viewer.source_address),
            total=min(share_of_strangers(total), total - self.of_users.taken),
            each=settings.max_sockets_per_address,
        )

    def start(self) -> None:
        self.plane.versions.on_change(Topic.ACCESS, self.recheck)
        self._task = asyncio.create_task(keep_running("live", self._expire), name="live-expiry")

    async def stop(self) -> None:
        await end(self._task)
        for socket in tuple(self.sockets):
            await socket.close(CloseCode.GOING_AWAY, "The server is going away.")
        for group in tuple(self.groups.values()):
            await group.stop()
        self.groups.clear()

    def group(
        self,
        operation: Operation,
        variables: Mapping[str, Any],
        stream: Stream,
        actor: Actor,
    ) -> Group:
        """The group of everybody whose subscription gives the same bytes."""
        shape = self.engine.shape(operation)
        key = GroupKey(
            source=operation.source,
            operation_name=operation.name,
            variables=shape.key_variables(variables),
            stream=stream.key,
            role=actor.role,
            scopes=actor.scopes,
        )
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(
                key,
                self.engine,
                operation,
                variables,
                self._context,
                stream.events,
                self._group_ended,
            )
        return group

    async def recheck(self) -> None:
        """Somebody's rights changed: end what may not go on, and follow what is seen now."""
        sockets = [socket for socket in self.sockets if socket.actor.is_signed_in]
        valid = await still_valid([socket.actor for socket in sockets])
        # Equal questions are asked once, however many viewers have them.
        plans = Plans(self.plane, self.engine)
        for socket in sockets:
            credential = socket.actor.credential_id
            actor = valid.get(credential) if credential is not None else None
            if actor is None:
                # Not awaited: one that reads nothing must not keep the others watching.
                socket.close_soon(CloseCode.FORBIDDEN, "The token was revoked or has expired.")
            else:
                await socket.rights_changed(actor.at(socket.actor.source_address), plans)

    def _group_ended(self, group: Group) -> None:
        if self.groups.get(group.key) is group:
            del self.groups[group.key]

    async def _expire(self) -> None:
        await asyncio.sleep(1)
        now = now_ms()
        for socket in tuple(self.sockets):
            expires_at = socket.actor.expires_at
            if expires_at is not None and expires_at <= now:
                socket.close_soon(CloseCode.FORBIDDEN, "The token was revoked or has expired.")

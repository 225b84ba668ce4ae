"""One operation that runs on a socket until it completes, fails or is completed."""

import asyncio
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from graphql import OperationType

from remotegpu_api.encoding import encode_json
from remotegpu_api.live.group import Group
from remotegpu_api.live.messages import (
    complete_message,
    error_message,
    next_message,
    next_prefix,
)
from remotegpu_api.live.plans import Plans
from remotegpu_api.preparation import Prepared
from remotegpu_core.actor import Actor
from remotegpu_core.errors import RemoteGPUError
from remotegpu_graphql.context import Context
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.shared_operation import BadVariables

if TYPE_CHECKING:
    from remotegpu_api.live.socket import Socket


class Subscription:
    """Shares groups where it can, and runs by itself where it must."""

    def __init__(
        self, socket: "Socket", operation_id: str, prepared: Prepared, variables: dict[str, Any]
    ) -> None:
        self.id = operation_id
        self._socket = socket
        self._operation = prepared.operation
        self._variables = variables
        self._context = Context(socket.hub.plane, prepared.caller)
        self._prefix = next_prefix(operation_id)
        self._groups: dict[Hashable, Group] = {}
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def is_subscription(self) -> bool:
        return self._operation.kind is OperationType.SUBSCRIPTION

    def start(self) -> None:
        self._socket.hub.running += 1
        self._task = asyncio.create_task(self._run(), name="live-operation")

    async def rights_changed(self, actor: Actor, plans: Plans) -> None:
        """The viewer's rights are others now: end, or follow what they see from now on."""
        self._context.actor = actor
        if not self.is_subscription or self._ended:
            return
        try:
            streams = await plans.streams(self._operation, self._variables, actor)
        except (RemoteGPUError, BadVariables) as error:
            self.fail(self._socket.hub.engine.explain(error))
            return
        if self._groups and not self._ended:
            self._follow(streams, actor)

    def stop(self) -> None:
        """Leave the groups and end the task; nothing is sent any more."""
        if not self._ended:
            self._socket.hub.running -= 1
        self._ended = True
        for group in self._groups.values():
            group.leave(self)
            self._socket.outbox.forget((self.id, group.key.stream))
        self._groups.clear()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def deliver(self, stream: Hashable, payload: bytes) -> None:
        if not self._ended:
            self._socket.send_live((self.id, stream), self._prefix, payload)

    def fail(self, errors: list[dict[str, Any]]) -> None:
        if not self._ended:
            self.stop()
            self._socket.end(self, error_message(self.id, errors))

    def finish(self) -> None:
        if not self._ended:
            self.stop()
            self._socket.end(self, complete_message(self.id))

    async def _run(self) -> None:
        hub = self._socket.hub
        try:
            if not self.is_subscription:
                await self._answer()
                return
            hub.engine.admit(self._operation, self._variables, self._context)
            shape = hub.engine.shape(self._operation)
            actor = self._socket.actor
            async with hub.asking:
                streams = await shape.plan(hub.plane, actor, self._variables)
            if shape.bytes_are_shared:
                # Rights may have changed while the plan was made, before there were groups to
                # look at: then it is made again.
                while actor is not self._socket.actor:
                    actor = self._socket.actor
                    streams = await shape.plan(hub.plane, actor, self._variables)
                self._follow(streams, actor)
                # The groups' tasks do the rest: thousands of ended ones are not kept.
                self._task = None
            else:
                await self._follow_alone()
        except (RemoteGPUError, RequestRefused, BadVariables) as error:
            self.fail(hub.engine.explain(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - told to the viewer and logged, whatever it is
            self.fail(hub.engine.explain(error))

    def _follow(self, streams: "list[Any]", actor: Actor) -> None:
        """Be in exactly the groups of these streams."""
        hub = self._socket.hub
        wanted = {
            stream.key: hub.group(self._operation, self._variables, stream, actor)
            for stream in streams
        }
        for key in [key for key, group in self._groups.items() if wanted.get(key) is not group]:
            self._groups.pop(key).leave(self)
            self._socket.outbox.forget((self.id, key))
        for key, group in wanted.items():
            if key not in self._groups:
                self._groups[key] = group
                group.join(self)

    async def _follow_alone(self) -> None:
        events = self._socket.hub.engine.follow(self._operation, self._variables, self._context)
        try:
            async for response in events:
                await self._socket.outbox.room()
                self._send_next(response.as_dict())
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # an async generator
        self.finish()

    async def _answer(self) -> None:
        response = await self._socket.hub.engine.run(
            self._operation, self._variables, self._context
        )
        if not response.began:
            self.fail(response.errors)
            return
        self._send_next(response.as_dict())
        self.finish()

    def _send_next(self, body: Mapping[str, Any]) -> None:
        if not self._ended:
            self._socket.send(next_message(self._prefix, encode_json(body)))

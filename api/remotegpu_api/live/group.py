"""Equal subscriptions to one stream: executed once an event, serialised once, sent to all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from remotegpu_api.encoding import encode_json
from remotegpu_core.actor import Role, Scope
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Engine, Operation

#: Members that get an event before other work has its turn: about 5 ms of it.
_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class GroupKey:
    """Two subscriptions with equal keys get equal bytes.

    `variables` are the encoded ones without those that only choose streams; `stream` names the
    object and what of it may be seen. Role and scopes are part of it so that no mistake in a
    field can carry anything across them.
    """

    source: str
    operation_name: str | None
    variables: bytes
    stream: Hashable
    role: Role | None
    scopes: frozenset[Scope]


class Member(Protocol):
    """A subscription on a socket, as its groups see it."""

    def deliver(self, stream: Hashable, payload: bytes) -> None:
        """Send ready JSON to the viewer."""
        ...

    def fail(self, errors: list[dict[str, Any]]) -> None:
        """The stream broke."""
        ...

    def finish(self) -> None:
        """The stream has ended."""
        ...


class Group:
    """Runs one stream for its members, from the first that joins to the last that leaves."""

    def __init__(
        self,
        key: GroupKey,
        engine: Engine,
        operation: Operation,
        variables: Mapping[str, Any],
        context: Context,
        events: Callable[[], AsyncIterator[Any]],
        on_end: Callable[["Group"], None],
    ) -> None:
        self.key = key
        self.members: set[Member] = set()
        self.executions = 0
        self._engine = engine
        self._operation = operation
        self._variables = variables
        self._context = context
        self._events = events
        self._on_end = on_end
        self._latest: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def join(self, member: Member) -> None:
        self.members.add(member)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live-group")
        elif self._latest is not None:
            # State first: who comes later begins with what the others have.
            member.deliver(self.key.stream, self._latest)

    def leave(self, member: Member) -> None:
        self.members.discard(member)
        if not self.members:
            self._on_end(self)
            # A group whose stream broke is left from within its own task, which ends anyway.
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        events = self._events()
        try:
            async for event in events:
                payload = await self._execute(event)
                self._latest = payload
                for count, member in enumerate(tuple(self.members), 1):
                    member.deliver(self.key.stream, payload)
                    if count % _AT_ONCE == 0:
                        # Others want the loop too.
                        await asyncio.sleep(0)
            self._on_end(self)
            for member in tuple(self.members):
                member.finish()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever breaks a stream is told to its members
            told = self._engine.explain(error)
            self._on_end(self)
            for member in tuple(self.members):
                member.fail(told)
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def _execute(self, event: Any) -> bytes:
        self.executions += 1
        response = await self._engine.react(self._operation, self._variables, self._context, event)
        return encode_json(response.as_dict())

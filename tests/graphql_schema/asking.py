"""Running documents as a transport would, without one."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Engine, refusal
from remotegpu_graphql.errors import RequestRefused

#: Seconds. Long enough for a loaded machine; nothing that works waits for it.
PATIENCE = 15.0

_engine = Engine()


async def ask(
    plane: ControlPlane,
    actor: Actor,
    source: str,
    variables: Mapping[str, Any] | None = None,
    *,
    operation: str | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """The response to a query or mutation, as it goes out: through JSON."""
    engine = engine or _engine
    try:
        prepared = engine.prepare(source, operation, signed_in=actor.is_signed_in)
    except RequestRefused as refused:
        return _through_json(refusal(refused.errors).as_dict())
    response = await engine.run(prepared, variables or {}, Context(plane, actor))
    return _through_json(response.as_dict())


async def data_of(
    plane: ControlPlane,
    actor: Actor,
    source: str,
    variables: Mapping[str, Any] | None = None,
    *,
    operation: str | None = None,
) -> dict[str, Any]:
    """The data of a document that runs without any error."""
    body = await ask(plane, actor, source, variables, operation=operation)
    assert "errors" not in body, body["errors"]
    data: dict[str, Any] = body["data"]
    return data


@dataclass(frozen=True, slots=True)
class Following:
    """A subscription that runs."""

    _responses: AsyncIterator[Any]

    async def next(self) -> dict[str, Any]:
        """The next event's response.

        Raises:
            RequestRefused: the subscription could not begin, or ended with an error.
            StopAsyncIteration: it is complete.
        """
        response = await asyncio.wait_for(anext(self._responses), PATIENCE)
        return _through_json(response.as_dict())

    async def data(self) -> dict[str, Any]:
        """The next event's data, which came without any error."""
        body = await self.next()
        assert "errors" not in body, body["errors"]
        data: dict[str, Any] = body["data"]
        return data


@contextlib.asynccontextmanager
async def following(
    plane: ControlPlane,
    actor: Actor,
    source: str,
    variables: Mapping[str, Any] | None = None,
    *,
    operation: str | None = None,
) -> AsyncIterator[Following]:
    """A subscription for one viewer, ended with the block."""
    prepared = _engine.prepare(source, operation, signed_in=actor.is_signed_in)
    responses = _engine.follow(prepared, variables or {}, Context(plane, actor))
    try:
        yield Following(responses)
    finally:
        await responses.aclose()  # type: ignore[attr-defined]  # an async generator


async def eventually(look: Callable[[], Awaitable[object]], expected: object) -> None:
    """Return as soon as `look` gives what is expected; fail when it does not before long."""
    deadline = time.monotonic() + PATIENCE
    while (found := await look()) != expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


def codes(body: Mapping[str, Any]) -> list[str]:
    """Codes of a response's top-level errors."""
    return [error["extensions"]["code"] for error in body.get("errors", [])]


def _through_json(body: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(json.dumps(body))
    return decoded

"""One execution for all gives what Strawberry gives each viewer: byte for byte, errors included."""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
import strawberry
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strawberry.schema.config import StrawberryConfig
from structlog.testing import capture_logs

from remotegpu_api.encoding import encode_json
from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.context import Context, Info
from remotegpu_graphql.engine import Engine, respond
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.fleet.types import Fleet
from remotegpu_graphql.metrics.types import MachineMetrics
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.scalars import SCALARS
from tests.graphql_schema.documents import Document, documents
from tests.graphql_schema.faulty_schema import SCHEMA, Query, Source, ticks
from tests.graphql_schema.subscription_events import ROOTS, events, faulty_events

OURS, FAULTY = Engine(), Engine(SCHEMA)

SLOW = settings(
    # A failure is told as it was found: making it smaller takes minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@strawberry.type(name="Subscription")
class Replayed:
    """Our subscriptions over given events: what they ask of the control plane is left out."""

    @subscription("As ours.", access=Access.PUBLIC)
    async def machine_metrics(
        self, info: Info, machine_ids: list[strawberry.ID]
    ) -> AsyncIterator[MachineMetrics]:
        for event in cast("Source", info.context.plane).events:
            yield event

    @subscription("As ours.", access=Access.PUBLIC)
    async def fleet_changed(self, info: Info) -> AsyncIterator[Fleet]:
        for event in cast("Source", info.context.plane).events:
            yield event


REPLAYED = strawberry.Schema(
    query=Query,
    subscription=Replayed,
    config=StrawberryConfig(scalar_map=SCALARS, info_class=Info),
)

#: What a masked error is called in the log; each has its own.
_INCIDENT = re.compile(rb"[0-9a-f]{12}")

VIEWER = Actor(ActorKind.ANONYMOUS)


def _encoded(response: Any) -> bytes:
    return _INCIDENT.sub(b"INCIDENT", encode_json(response.as_dict()))


async def _shared(engine: Engine, document: Document, ticks: Sequence[Any]) -> list[bytes]:
    """What everybody gets, executed without a viewer."""
    operation = engine.prepare(document.source, None, signed_in=True)
    # Nothing of the control plane is asked, so that none is needed.
    context = Context(cast("ControlPlane", None), None)
    return [
        _encoded(await engine.react(operation, document.variables, context, tick)) for tick in ticks
    ]


async def _stock(stock: strawberry.Schema, document: Document, context: Context) -> list[bytes]:
    """What Strawberry's own subscription gives one viewer."""
    stream: Any = await stock.subscribe(
        document.source,
        variable_values=document.variables,
        context_value=context,
    )
    assert hasattr(stream, "__aiter__"), stream
    return [_encoded(respond(result)) async for result in stream]


@settings(SLOW, max_examples=100)
@given(data=st.data())
async def test_everything_that_a_document_may_have_over_events_that_fail(data: Any) -> None:
    document = data.draw(documents(FAULTY.schema, "tick", "Tick"))
    drawn = data.draw(st.lists(ticks(), min_size=1, max_size=3))
    context = Context(cast("ControlPlane", Source(drawn)), VIEWER)
    with capture_logs():
        expected = await _stock(SCHEMA, document, context)
        assert await _shared(FAULTY, document, drawn) == expected
        # And so does our own subscription of one viewer.
        operation = FAULTY.prepare(document.source, None, signed_in=True)
        followed = FAULTY.follow(operation, document.variables, context)
        assert [_encoded(response) async for response in followed] == expected


@pytest.mark.parametrize("faulty", [False, True])
@pytest.mark.parametrize("root", ROOTS)
@settings(SLOW, max_examples=30)
@given(data=st.data())
async def test_our_own_subscriptions(root: str, faulty: bool, data: Any) -> None:
    arguments, type_name = ROOTS[root]
    document = data.draw(documents(OURS.schema, root, type_name, arguments))
    drawn = data.draw(st.lists((faulty_events if faulty else events)(root), min_size=1, max_size=2))
    operation = OURS.prepare(document.source, None, signed_in=True)
    assert OURS.shape(operation).bytes_are_shared
    context = Context(cast("ControlPlane", Source(drawn)), VIEWER)
    with capture_logs():
        expected = await _stock(REPLAYED, document, context)
        assert await _shared(OURS, document, drawn) == expected

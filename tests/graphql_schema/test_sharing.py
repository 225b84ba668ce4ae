"""Which subscriptions may be executed once for several viewers, and that it makes no difference."""

import json
import uuid
from typing import Any

import pytest
import strawberry
from graphql import (
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLObjectType,
    OperationDefinitionNode,
    execute,
    get_named_type,
    is_composite_type,
    parse,
    validate,
)
from structlog.testing import capture_logs

from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import InvalidInput, NotFound, Unauthenticated
from remotegpu_core.live.gpu_ids import GpuIds
from remotegpu_core.models import Gpu
from remotegpu_graphql.context import Context, Info
from remotegpu_graphql.engine import Engine, respond
from remotegpu_graphql.machines.types import MachineChange
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.shared_operation import BadVariables, SubscriptionShape, _only_shareable
from remotegpu_graphql.sharing import is_shareable, shareable
from tests.graphql_schema.asking import following
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_admin, as_user, make_user
from tests.graphql_schema.subscription_events import ROOTS

ENGINE = Engine()


def _shape(source: str, operation: str | None = None) -> SubscriptionShape:
    return ENGINE.shape(ENGINE.prepare(source, operation, signed_in=True))


METRICS = "machineMetrics(machineIds: $ids)"


@pytest.mark.parametrize(
    ("source", "shared"),
    [
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machineId }} }}", True),
        (f"subscription S($ids: [ID!]!) {{ live: {METRICS} {{ machineId }} }}", True),
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ __typename gpus {{ uuid }} }} }}", True),
        ("subscription { fleetChanged { gpus { power } machines { total } } }", True),
        # The ids that caches keep objects by are everybody's, the objects are each viewer's own.
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machine {{ id __typename }} }} }}", True),
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ gpus {{ gpu {{ id }} }} }} }}", True),
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machine {{ id name }} }} }}", False),
        (
            f"subscription S($ids: [ID!]!) {{ {METRICS} {{ gpus {{ gpu {{ availability }} }} }} }}",
            False,
        ),
        (
            f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machine {{ ...N }} }} }} fragment N on Node {{ id }}",
            False,
        ),
        # In a fragment or with a directive the root field is not what it seems.
        (f"subscription S($ids: [ID!]!) {{ ... {{ {METRICS} {{ machineId }} }} }}", False),
        (
            f"subscription S($ids: [ID!]!) {{ ... on Subscription {{ {METRICS} {{ machineId }} }} }}",
            False,
        ),
        (
            (
                "subscription S($ids: [ID!]!) { ...R } "
                f"fragment R on Subscription {{ {METRICS} {{ machineId }} }}"
            ),
            False,
        ),
        # Below it fragments and directives change nothing.
        (
            (
                "subscription S($ids: [ID!]!, $b: Boolean!) { "
                f"{METRICS} {{ ...A host @include(if: $b) {{ load1 }} }} }} "
                "fragment A on MachineMetrics { gpus { ...B ... { index } } } "
                "fragment B on GpuMetrics { processes @skip(if: $b) { pid } }"
            ),
            True,
        ),
    ],
)
def test_what_is_shared(source: str, shared: bool) -> None:
    shape = _shape(source)
    assert shape.bytes_are_shared is shared
    # Shared or not, it has a plan: that says when rights are lost.
    assert shape.shared is not None
    assert shape.field_name in ROOTS
    assert shape.access is Access.USER


def test_field_without_a_plan() -> None:
    shape = _shape("subscription { machineChanged { cursor machine { name } } }")
    assert (shape.shared, shape.bytes_are_shared, shape.routing_variables) == (
        None,
        False,
        frozenset(),
    )


# --- a type that is not marked, reached in any way


@strawberry.interface
class Named:
    name: str


@shareable
@strawberry.type
class Marked(Named):
    name: str
    number: int


@strawberry.type
class Unmarked(Named):
    name: str

    @strawberry.field
    def owner(self, info: Info) -> str:
        return str(info.context.actor.id)


@shareable
@strawberry.type
class Event:
    number: int
    marked: Marked
    unmarked: Unmarked
    either: Marked | Unmarked
    named: Named


@strawberry.type
class Query:
    nothing: int


@strawberry.type
class Subscription:
    event: Event


EVENTS = strawberry.Schema(query=Query, subscription=Subscription)._schema


def _analysed(selection: str, fragments: str = "") -> bool:
    """What the analysis says of a selection over `Event`."""
    document = parse(f"subscription {{ event {selection} }} {fragments}")
    assert validate(EVENTS, document) == []
    operation = document.definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    named = {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }
    return _only_shareable(EVENTS, document, operation, named)


@pytest.mark.parametrize(
    ("selection", "fragments", "shared"),
    [
        ("{ number }", "", True),
        ("{ marked { name number __typename } }", "", True),
        ("{ unmarked { name } }", "", False),
        ("{ unmarked { __typename } }", "", False),
        ("{ number ... { ... on Event { unmarked { name } } } }", "", False),
        ("{ ...A }", "fragment A on Event { marked { number } }", True),
        ("{ ...A }", "fragment A on Event { unmarked { name } }", False),
        (
            "{ ...A }",
            (
                "fragment A on Event { ...B } fragment B on Event { number ...C } "
                "fragment C on Event { unmarked { owner } }"
            ),
            False,
        ),
        # Of a union or an interface any member may come.
        ("{ either { ... on Marked { name } } }", "", True),
        ("{ either { ... on Marked { name } ... on Unmarked { name } } }", "", False),
        ("{ either { ...U } }", "fragment U on Unmarked { name }", False),
        ("{ either { __typename } }", "", False),
        ("{ named { name } }", "", False),
        ("{ named { ... on Marked { name } } }", "", True),
        ("{ named { ... on Unmarked { owner } } }", "", False),
        # What a directive leaves out may be there with other variables.
        ("{ number unmarked @skip(if: true) { name } }", "", False),
    ],
)
def test_unmarked_fields_prevent_sharing(selection: str, fragments: str, shared: bool) -> None:
    assert _analysed(selection, fragments) is shared


def test_marked_types_promise_what_they_hold() -> None:
    """From a marked type of ours no unmarked one is reached: nothing is shared by halves."""
    for name, type_ in ENGINE.schema.type_map.items():
        if is_shareable(name) and isinstance(type_, GraphQLObjectType):
            for field_name, field in type_.fields.items():
                if not is_shareable(name, field_name):
                    continue
                inner = get_named_type(field.type)
                if is_composite_type(inner) and not is_shareable(inner.name, "id"):
                    assert is_shareable(inner.name), f"{name}.{field_name}"
                assert not field.args, f"{name}.{field_name}"
    marked = {name for name in ENGINE.schema.type_map if is_shareable(name)}
    assert marked == {
        *("MachineMetrics", "HostMetrics", "GpuMetrics", "GpuProcess", "EccErrors"),
        *("Fleet", "FleetMachines", "FleetGpus"),
    }
    assert not is_shareable("GpuProcess", "user")


# --- variables


@pytest.mark.parametrize(
    ("source", "routing"),
    [
        (f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machineId }} }}", {"ids"}),
        ('subscription { machineMetrics(machineIds: ["a"]) { machineId } }', set()),
        # Not the whole value of the argument.
        ("subscription S($id: ID!) { machineMetrics(machineIds: [$id]) { machineId } }", set()),
        # Used elsewhere too: in the same field asked twice.
        (
            f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machineId }} {METRICS} {{ sampledAt }} }}",
            set(),
        ),
        (
            (
                f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machineId }} }} "
                "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }"
            ),
            # That one's is another variable.
            {"ids"},
        ),
        # An interval is no routing: it changes what comes.
        (
            (
                "subscription S($ids: [ID!]!, $every: Float) { "
                "machineMetrics(machineIds: $ids, intervalSeconds: $every) { machineId } }"
            ),
            {"ids"},
        ),
        ("subscription S { fleetChanged { machines { total } } }", set()),
    ],
)
def test_routing_variables(source: str, routing: set[str]) -> None:
    assert _shape(source, "S" if "query Q" in source else None).routing_variables == routing


def test_key_has_what_results_depend_on() -> None:
    shape = _shape(
        "subscription S($ids: [ID!]!, $every: Float, $b: Boolean = true) { "
        "machineMetrics(machineIds: $ids, intervalSeconds: $every) "
        "{ machineId host @include(if: $b) { load1 } } }"
    )
    key = shape.key_variables({"ids": ["a"], "every": 1, "b": True})
    assert json.loads(key) == {"b": True, "every": 1}
    assert shape.key_variables({"b": True, "every": 1, "ids": ["b", "c"]}) == key
    # What the document does not declare is nothing to it.
    assert shape.key_variables({"b": True, "every": 1, "ids": [], "more": [1]}) == key
    assert shape.key_variables({"ids": ["a"], "every": 1, "b": False}) != key
    assert shape.key_variables({"ids": ["a"], "every": 2, "b": True}) != key
    assert shape.key_variables({"ids": ["a"], "every": 1}) != key


def test_routing_variable_that_is_used_elsewhere_stays_in_the_key() -> None:
    shape = _shape(
        f"subscription S($ids: [ID!]!) {{ {METRICS} {{ machineId }} {METRICS} {{ sampledAt }} }}"
    )
    assert shape.bytes_are_shared
    assert shape.key_variables({"ids": ["a"]}) != shape.key_variables({"ids": ["b"]})


async def test_plan(plane: ControlPlane) -> None:
    user = await make_user()
    hosts = [await make_host(plane, gpus=0) for _ in range(3)]
    for host in hosts[:2]:
        await host.grant(user_id=user.id)
    actor = await as_user(user)
    shape = _shape(
        "subscription S($ids: [ID!]!, $every: Float) { "
        "machineMetrics(machineIds: $ids, intervalSeconds: $every) { machineId } }"
    )

    async def keys(ids: list[str], who: Actor = actor, **variables: Any) -> list[Any]:
        return [s.key for s in await shape.plan(plane, who, {"ids": ids, **variables})]

    ids = [host.id for host in hosts]
    assert await keys(ids[:1]) == await keys([ids[0], ids[0]])
    # Lists that overlap have the streams of what they share in common.
    assert set(await keys(ids[:2])) & set(await keys(ids[1:2])) == set(await keys(ids[1:2]))
    assert await keys(ids[:1], await as_admin()) == await keys(ids[:1])
    assert await keys(ids[:1], every=1) != await keys(ids[:1])
    assert await keys(ids[:1], every=1) == await keys(ids[:1], every=1.0)
    with pytest.raises(NotFound):
        await keys(ids)
    with pytest.raises(Unauthenticated):
        await keys(ids[:1], Actor(ActorKind.ANONYMOUS))
    with pytest.raises(InvalidInput):
        await keys(ids[:1], every=0)
    for bad in ({"ids": 5.5}, {"ids": None}, {}, {"ids": ids, "every": "often"}):
        with pytest.raises(BadVariables) as refused:
            await shape.plan(plane, actor, bad)
        assert [e["extensions"]["code"] for e in ENGINE.explain(refused.value)] == ["INVALID_INPUT"]


async def test_plan_of_the_fleet_is_what_one_sees(plane: ControlPlane) -> None:
    users = [await make_user() for _ in range(3)]
    hosts = [await make_host(plane, gpus=0) for _ in range(2)]
    for user in users[:2]:
        for host in hosts:
            await host.grant(user_id=user.id)
    shape = _shape("subscription { fleetChanged { machines { total } } }")
    keys = [(await shape.plan(plane, await as_user(user), {}))[0].key for user in users]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]
    admins = [(await shape.plan(plane, await as_admin(), {}))[0].key for _ in range(2)]
    assert admins[0] == admins[1] != keys[0]


# --- one execution for all


async def test_shared_and_own_execution_of_real_events(plane: ControlPlane) -> None:
    """What `follow` sends each viewer for itself is what `react` gives for all of them."""
    host, admin = await make_host(plane), await as_admin()
    await host.publish()
    source = (
        "subscription S($ids: [ID!]!) { machineMetrics(machineIds: $ids) { machineId sampledAt "
        "host { load1 uptimeSeconds } gpus { index throttleReasons eccErrors { corrected } "
        "processes { pid username } gpu { id __typename } } machine { id __typename } } }"
    )
    variables = {"ids": [host.id]}
    operation = ENGINE.prepare(source, None, signed_in=True)
    (stream,) = await ENGINE.shape(operation).plan(plane, admin, variables)
    event = await anext(stream.events())
    shared = await ENGINE.react(operation, {"ids": []}, Context(plane, None), event)
    async with following(plane, admin, source, variables) as live:
        own = await live.next()
    assert json.dumps(shared.as_dict()) == json.dumps(own)


async def test_whole_objects_of_a_shared_event_are_refused(plane: ControlPlane) -> None:
    """Were they marked, nobody would get what another may see."""
    host = await make_host(plane)
    await host.publish()
    source = (
        "subscription S($ids: [ID!]!) "
        "{ machineMetrics(machineIds: $ids) { machine { name } gpus { gpu { model } } } }"
    )
    operation = ENGINE.prepare(source, None, signed_in=True)
    admin = await as_admin()
    (stream,) = await ENGINE.shape(operation).plan(plane, admin, {"ids": [host.id]})
    event = await anext(stream.events())
    with capture_logs():
        shared = await ENGINE.react(operation, {"ids": []}, Context(plane, None), event)
    assert {error["extensions"]["code"] for error in shared.errors} == {"INTERNAL"}
    async with following(plane, admin, source, {"ids": [host.id]}) as live:
        own = (await live.data())["machineMetrics"]
    assert own["machine"] == {"name": host.machine.name}
    assert all(gpu["gpu"]["model"] for gpu in own["gpus"])


async def test_a_card_that_the_inventory_does_not_have_is_null(plane: ControlPlane) -> None:
    host = await make_host(plane)
    now, asked = 0.0, 0
    known = GpuIds(lambda: now)

    async def fetch(machine_id: uuid.UUID) -> list[Gpu]:
        nonlocal asked
        asked += 1
        return await Gpu.filter(machine_id=machine_id)

    async def find(card: str) -> uuid.UUID | None:
        return await known.find(host.machine.id, card, fetch)

    first = host.gpus[0]
    assert [await find(first.uuid) for _ in range(3)] == [first.id] * 3
    # An unknown one is looked for again after a while, not with every sample.
    assert [await find("GPU-unknown") for _ in range(3)] == [None] * 3
    assert asked == 1
    now = 10.0
    await find("GPU-unknown")
    assert asked == 2


async def test_shareable_field_that_asks_for_the_viewer_fails_loudly(plane: ControlPlane) -> None:
    """Were `Unmarked` marked, the shared execution would refuse, and nobody get another's answer."""
    document = parse("subscription { event { unmarked { name owner } number } }")
    event = Event(
        number=1,
        marked=Marked(name="a", number=1),
        unmarked=Unmarked(name="b"),
        either=Marked(name="c", number=1),
        named=Marked(name="d", number=1),
    )
    result = execute(
        EVENTS,
        document,
        root_value=_Root(event),
        context_value=Context(plane, None),
    )
    assert isinstance(result, ExecutionResult)
    (error,) = result.errors or []
    assert error.path == ["event", "unmarked", "owner"]
    assert isinstance(error.original_error, RuntimeError)
    assert "remove the mark" in str(error.original_error)
    with capture_logs() as logs:
        response = respond(result)
    assert response.errors[0]["extensions"]["code"] == "INTERNAL"
    assert response.data is None
    assert [entry["event"] for entry in logs] == ["graphql.internal_error"]


class _Root:
    def __init__(self, event: Event) -> None:
        self.event = event


async def test_loaders_of_a_shared_context_refuse_too(plane: ControlPlane) -> None:
    host = await make_host(plane)
    shared = Context(plane, None)
    for loader, key in (
        (shared.loaders.machine, host.machine.id),
        (shared.loaders.gpu, host.gpus[0].id),
        (shared.loaders.user, host.machine.id),
    ):
        with pytest.raises(RuntimeError, match="asked who the viewer is"):
            await loader.load(key)


async def test_machine_of_a_shared_event_would_be_nobodys(plane: ControlPlane) -> None:
    """An unshareable document run with the shared context is an error, never data."""
    await make_host(plane)
    source = "subscription { machineChanged { machine { name } } }"
    operation = ENGINE.prepare(source, None, signed_in=True)
    async with following(plane, await as_admin(), source, {}) as live:
        assert (await live.data())["machineChanged"] == {"machine": None}
    change = await anext(plane.changes.follow(0))
    with capture_logs():
        response = await ENGINE.react(operation, {}, Context(plane, None), MachineChange.of(change))
    assert response.data == {"machineChanged": {"machine": None}}
    assert response.errors[0]["extensions"]["code"] == "INTERNAL"

"""What an operation costs, and that it is told."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from graphql import OperationDefinitionNode, get_introspection_query, parse

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.paging import MAX_PAGE
from remotegpu_graphql.cost import COUNT_COST, LIST_SIZES, MAX_COST, cost_of
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from tests.graphql_schema.asking import ask, codes, following
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_admin


def _cost(source: str, variables: Mapping[str, Any] | None = None) -> int:
    document = parse(source)
    (operation,) = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    return cost_of(Engine().schema, document, operation, variables or {})


MACHINE_PAGE = "{ edges { node { gpus { id } latestMetrics { gpus { processes { pid } } } } } }"
#: A machine with 8 GPUs, one sample, 8 GPUs in it with 4 processes each.
ONE_MACHINE = 1 + 8 + 1 + 8 * (1 + 4)


@pytest.mark.parametrize(
    ("arguments", "variables", "page"),
    [
        ("", {}, 20),
        ("(first: 7)", {}, 7),
        ("(last: 7)", {}, 7),
        ("(first: 0)", {}, 0),
        ("(first: null)", {}, 20),
        ("(first: null, last: 9)", {}, 9),
        ("(first: 3, last: 9)", {}, 9),
        ("(first: 1000000)", {}, MAX_PAGE),
        ("(first: 99999999999999999999)", {}, MAX_PAGE),
        ("(first: -5)", {}, 0),
        ("(first: $n)", {"n": 5}, 5),
        ("(last: $n)", {"n": 5}, 5),
        ("(first: $n)", {"n": 5.0}, 5),
        ("(first: $n)", {"n": None}, 20),
        ("(first: $n)", {}, 20),
        ("(first: $n)", {"n": 10**9}, MAX_PAGE),
        ("(first: $n)", {"n": "5"}, 20),
        ("(first: $n)", {"n": True}, 20),
        ("(first: $d)", {}, 50),
        ("(first: $d)", {"d": 5}, 5),
        ("(last: $d)", {}, 50),
    ],
)
def test_cost_of_a_page(arguments: str, variables: dict[str, Any], page: int) -> None:
    source = f"query Q($n: Int, $d: Int = 50) {{ machines{arguments} {MACHINE_PAGE} }}"
    assert _cost(source, variables) == page * ONE_MACHINE


@pytest.mark.parametrize(
    ("source", "cost"),
    [
        ("{ viewer { user { id } } }", 2),
        ("{ fleet { machines { total } gpus { total } } }", 3),
        ("{ machines { totalCount pageInfo { hasNextPage } } }", COUNT_COST),
        ("{ machines { a: totalCount b: totalCount } }", 2 * COUNT_COST),
        ("{ machines(first: 10) { edges { cursor } } }", 0),
        ("{ machines(first: 10) { edges { node { id } } } }", 10),
        ("{ machines(first: 10) { edges { node { labels { key } } } } }", 10 * 5),
        ("{ machines(first: 10) { edges { node { specs { disks { name } } } } } }", 10 * 6),
        ("{ machines(first: 10) { edges { node { gpus { migDevices { uuid } } } } } }", 10 * 41),
        ("{ workspaces(first: 3) { edges { node { members { userId } } } } }", 3 * 11),
        ("{ auditEvents(first: 3) { edges { node { details { key } } } } }", 3 * 5),
        ("{ viewer { workspaces(first: 5) { edges { node { id } } } } }", 6),
        ("{ viewer { a: apiTokens(first: 5) { edges { node { id } } } } }", 6),
        ('{ nodes(ids: ["a", "b", "c"]) { id } }', 3),
        ('{ nodes(ids: "a") { id } }', 1),
        ("{ nodes(ids: []) { id } }", 0),
        ('{ nodes(ids: ["a", "b"]) { ... on Machine { gpus { id } } } }', 2 * 9),
        ("{ __schema { types { name } } }", 1 + 300),
        ("{ __schema { types { name fields { name } } } }", 1 + 300 * 4),
        (
            '{ __type(name: "Machine") { fields { type { ofType { ofType { name } } } } } }',
            1 + 3 * 2,
        ),
        (
            "{ machines(first: 1, filter: {presence: [ONLINE], health: [HEALTHY, WARNING]}) { edges { node { id } } } }",
            1 + 3,
        ),
        ("mutation { signOut { user { id } userErrors { code } } }", 1 + 1 + 4),
        ("{ fleet { __typename } a: fleet { __typename } }", 2),
        ("{ ...A ...A } fragment A on Query { fleet { machines { total } } }", 4),
        (
            (
                "{ machines(first: 10) { ...A } a: machines(first: 20) { ...A } } "
                "fragment A on MachineConnection { edges { node { id } } }"
            ),
            30,
        ),
    ],
)
def test_cost(source: str, cost: int) -> None:
    assert _cost(source) == cost


def test_cost_of_ids_from_variables() -> None:
    source = 'query Q($ids: [ID!]! = ["a", "b"]) { nodes(ids: $ids) { id } }'
    assert _cost(source) == 2
    assert _cost(source, {"ids": ["a"] * 30}) == 30
    assert _cost(source, {"ids": "a"}) == 1


def _expensive(first: int) -> str:
    gpus = " ".join(f"g{i}: gpus {{ id }}" for i in range(12))
    return f"{{ machines(first: {first}) {{ edges {{ node {{ name {gpus} }} }} }} }}"


def test_cost_limit() -> None:
    engine, each = Engine(), 1 + 12 * 8
    # A machine with twelve times its GPUs; what is left of the limit is asked for one by one.
    fitting = _expensive(100)
    assert _cost(fitting) == 100 * each == 9_700
    source = (
        "query Q($a: [ID!]!, $b: [ID!]!, $c: [ID!]!) { "
        + fitting[1:-1]
        + " nodes(ids: $a) { id } b: nodes(ids: $b) { id } c: nodes(ids: $c) { id } %s }"
    )
    full = {"a": ["x"] * 100, "b": ["x"] * 100, "c": ["x"] * 100}
    operation = engine.prepare(source % "", None, signed_in=True)
    assert engine.price(operation, full) == MAX_COST
    operation = engine.prepare(source % "fleet { __typename }", None, signed_in=True)
    with pytest.raises(RequestRefused) as refused:
        engine.price(operation, full)
    (error,) = refused.value.errors
    assert error.extensions == {"code": "LIMIT_EXCEEDED"}
    assert f"up to {MAX_COST + 1} objects" in error.message


async def test_cost_is_told(plane: ControlPlane) -> None:
    admin = await as_admin()
    body = await ask(plane, admin, "{ machines(first: 10) { edges { node { id } } } }")
    assert body["extensions"]["cost"] == 10
    body = await ask(plane, admin, _expensive(100).replace("name", "name specs { disks { name } }"))
    assert codes(body) == ["LIMIT_EXCEEDED"]
    assert "data" not in body
    assert "extensions" not in body


async def test_what_remains_is_told(plane: ControlPlane) -> None:
    admin = await as_admin()
    settings = plane.settings
    source = "{ machines(first: 10) { edges { node { id } } } }"
    for times in (1, 2):
        # Requests are counted where they arrive, which is not here.
        body = await ask(plane, admin, source)
        assert body["extensions"] == {
            "cost": 10,
            "remaining": {
                "requests": settings.rate_requests,
                "cost": settings.rate_cost - 10 * times,
            },
        }


def test_cost_of_a_filter_from_variables() -> None:
    source = (
        "query Q($f: MachineFilter) { machines(first: 0, filter: $f) { edges { node { id } } } }"
    )
    assert _cost(source) == 0
    label = {"key": "a", "value": "b"}
    assert _cost(source, {"f": {"labels": [label] * 5, "presence": ["ONLINE"], "text": "a"}}) == 6
    assert _cost(source, {"f": "nonsense"}) == 0


def test_the_schema_has_no_more_types_than_its_cost_says() -> None:
    types = Engine().schema.type_map.values()
    fields = [len(getattr(type_, "fields", ())) for type_ in types]
    assert len(fields) <= LIST_SIZES["__Schema.types"]
    assert (
        sum(fields) / len(fields) <= LIST_SIZES["__Type.fields"] + LIST_SIZES["__Type.inputFields"]
    )


def test_all_of_the_schema_may_be_asked_for() -> None:
    assert 2_000 < _cost(get_introspection_query()) <= MAX_COST


async def test_introspection_does_not_hold_up_the_loop(plane: ControlPlane) -> None:
    """It runs on another thread; what asks for something else beside it does not."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        turning = group.create_task(turn())
        body = await ask(plane, await as_admin(), get_introspection_query())
        before = turns
        turning.cancel()
    assert "errors" not in body
    assert before > 10


async def test_subscription_is_priced(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await make_host(plane)
    lists = " ".join(f"p{i}: processes {{ pid }}" for i in range(10))
    source = (
        "subscription S($i: [ID!]!) { machineMetrics(machineIds: $i) "
        f"{{ g0: gpus {{ {lists} }} }} }}"
    )
    async with following(plane, admin, source, {"i": [host.id]}) as live:
        await host.publish()
        assert "g0" in (await live.data())["machineMetrics"]
    assert _cost(source) == 1 + 8 * 41

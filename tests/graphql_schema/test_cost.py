"""What an operation costs, and that it is told."""

from collections.abc import Mapping
from typing import Any

import pytest
from graphql import OperationDefinitionNode, parse

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.paging import MAX_PAGE
from remotegpu_graphql.engine import Engine, RequestRefused
from remotegpu_graphql.limits import (
    MAX_COST,
    cost_of,
)
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
        ("{ machines { totalCount pageInfo { hasNextPage } } }", 0),
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
        ("{ __schema { types { name fields { name } } } }", 0),
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
    assert body["extensions"] == {"cost": 10}
    body = await ask(plane, admin, _expensive(100).replace("name", "name specs { disks { name } }"))
    assert codes(body) == ["LIMIT_EXCEEDED"]
    assert "data" not in body
    assert "extensions" not in body


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

"""Every bound of a document: what just fits, and one more."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from graphql import OperationDefinitionNode, get_introspection_query, parse

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.paging import MAX_PAGE
from remotegpu_graphql.engine import Engine, RequestRefused
from remotegpu_graphql.limits import (
    MAX_ALIASES,
    MAX_COST,
    MAX_DEPTH,
    MAX_DIRECTIVES,
    MAX_TOKENS,
    cost_of,
)
from remotegpu_graphql.metrics.subscriptions import MAX_INTERVAL, MAX_MACHINES
from remotegpu_graphql.nodes import MAX_NODES
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL
from tests.graphql_schema.asking import ask, codes, following
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_admin

#: Seconds of processor time that a hostile document may take: far more than it does, far less than
#: walking every spread of it would.
SOON = 3.0


def _refused(source: str, *, signed_in: bool = True) -> tuple[str, str]:
    """Code and message with which a document is refused."""
    with pytest.raises(RequestRefused) as refused:
        Engine().prepare(source, None, signed_in=signed_in)
    error = refused.value.errors[0]
    return str((error.extensions or {})["code"]), error.message


def _accepted(source: str, *, signed_in: bool = True) -> None:
    Engine().prepare(source, None, signed_in=signed_in)


def _cost(source: str, variables: Mapping[str, Any] | None = None) -> int:
    document = parse(source)
    (operation,) = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    return cost_of(Engine().schema, document, operation, variables or {})


def test_tokens() -> None:
    # Braces are four tokens, the two fields are two.
    fitting = "{ fleet { __typename } " + "__typename " * (MAX_TOKENS - 6) + "}"
    # It is read; that it says the same so often is another matter.
    assert _refused(fitting)[0] == "GRAPHQL_VALIDATION_FAILED"
    code, message = _refused("{ fleet { __typename } " + "__typename " * (MAX_TOKENS - 5) + "}")
    assert (code, str(MAX_TOKENS) in message) == ("LIMIT_EXCEEDED", True)


def test_what_the_parser_quotes_is_no_limit() -> None:
    assert _refused('{ "more than 1000 tokens. Parsing aborted." }')[0] == "GRAPHQL_PARSE_FAILED"
    assert _refused("{ a }}")[0] == "GRAPHQL_PARSE_FAILED"


def _deep(fields: int) -> str:
    """`machine { gpus { machine { gpus ...` with a leaf at the end, `fields` deep."""
    names = ["machine" if i % 2 == 0 else "gpus" for i in range(fields - 2)]
    return 'query { gpu(id: "x") {' + "{".join([*names, "id"]) + "}" * len(names) + "} }"


def test_depth() -> None:
    _accepted(_deep(MAX_DEPTH))
    assert _refused(_deep(MAX_DEPTH + 1)) == (
        "LIMIT_EXCEEDED",
        f"The operation is {MAX_DEPTH + 1} fields deep, at most {MAX_DEPTH} are allowed.",
    )


def test_depth_through_fragments() -> None:
    """A fragment is as deep as what it is spread in, and itself."""

    def document(inner: int) -> str:
        names = ["gpus" if i % 2 == 0 else "machine" for i in range(inner - 1)]
        below = "{".join([*names, "id"]) + "}" * len(names)
        return (
            'query { gpu(id: "x") { machine { ...A } } } '
            f"fragment A on Machine {{ ...B }} fragment B on Machine {{ ... on Machine {{ {below} }} }}"
        )

    _accepted(document(MAX_DEPTH - 2))
    assert f"is {MAX_DEPTH + 1} fields deep" in _refused(document(MAX_DEPTH - 1))[1]


def test_introspection_is_as_deep_as_it_is_for_those_who_signed_in() -> None:
    query = get_introspection_query()
    _accepted(query)
    assert _refused(query, signed_in=False)[0] == "LIMIT_EXCEEDED"
    _accepted("{ __schema { queryType { name } } }", signed_in=False)
    # Nothing else gets deeper by standing beside it.
    assert _refused(_deep(MAX_DEPTH + 1)[:-1] + " __typename }")[0] == "LIMIT_EXCEEDED"


def test_introspection_that_grows_with_its_depth_is_refused() -> None:
    bomb = "{ __schema { types { fields { type { fields { type { fields { type { name } } } } } } } } }"
    assert _refused(bomb)[0] == "GRAPHQL_VALIDATION_FAILED"
    assert _refused(bomb, signed_in=False)[0] == "GRAPHQL_VALIDATION_FAILED"


def _aliases(count: int) -> str:
    return "{ fleet {" + " ".join(f"a{i}: __typename" for i in range(count)) + "} }"


def test_aliases() -> None:
    _accepted(_aliases(MAX_ALIASES))
    assert _refused(_aliases(MAX_ALIASES + 1)) == (
        "LIMIT_EXCEEDED",
        f"The operation has {MAX_ALIASES + 1} aliases, at most {MAX_ALIASES} are allowed.",
    )


def test_aliases_through_fragments() -> None:
    """A fragment's aliases count as often as it is spread."""

    def document(spreads: int, direct: int) -> str:
        return (
            "{ fleet {" + "".join(f" x{i}: __typename" for i in range(direct)) + "} "
            + "fleet { " + "...A " * spreads + "} } "
            + "fragment A on Fleet { a: __typename b: __typename ... { c: __typename } }"
        )  # fmt: skip

    assert MAX_ALIASES == 15
    _accepted(document(5, 0))
    _accepted(document(4, 3))
    assert "has 16 aliases" in _refused(document(5, 1))[1]
    assert "has 18 aliases" in _refused(document(6, 0))[1]


def test_every_operation_of_a_document_is_bounded() -> None:
    two = "query A { fleet { __typename } } query B " + _aliases(MAX_ALIASES + 1)
    with pytest.raises(RequestRefused):
        Engine().prepare(two, "A", signed_in=True)


def test_directives() -> None:
    def document(count: int, on_fragment: bool = False) -> str:
        fields = " ".join(["__typename @include(if: true)"] * count)
        spread = "... @skip(if: false) { __typename }" if on_fragment else ""
        return f"{{ fleet {{ {fields} {spread} }} }}"

    _accepted(document(MAX_DIRECTIVES))
    _accepted(document(MAX_DIRECTIVES - 1, on_fragment=True))
    assert _refused(document(MAX_DIRECTIVES + 1)) == (
        "LIMIT_EXCEEDED",
        f"The operation has {MAX_DIRECTIVES + 1} directives, at most {MAX_DIRECTIVES} are allowed.",
    )
    assert _refused(document(MAX_DIRECTIVES, on_fragment=True))[0] == "LIMIT_EXCEEDED"


def test_directives_through_fragments() -> None:
    def document(spreads: int) -> str:
        return (
            "{ fleet { " + "...A @include(if: true) " * spreads + "} } "
            "fragment A on Fleet { machines { total @skip(if: false) } }"
        )

    _accepted(document(MAX_DIRECTIVES // 2))
    assert "has 22 directives" in _refused(document(MAX_DIRECTIVES // 2 + 1))[1]


# --- cost


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
        + " nodes(ids: $a) { id } b: nodes(ids: $b) { id } c: nodes(ids: $c) { id } }"
    )
    operation = engine.prepare(source, None, signed_in=True)
    full = {"a": ["x"] * 100, "b": ["x"] * 100, "c": ["x"] * 100}
    assert engine.price(operation, full) == MAX_COST
    with pytest.raises(RequestRefused) as refused:
        engine.price(operation, {**full, "c": ["x"] * 101})
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


# --- sizes of arguments


async def test_page_size(plane: ControlPlane) -> None:
    admin = await as_admin()
    for argument in ("first", "last"):
        query = f"query Q($n: Int) {{ machines({argument}: $n) {{ totalCount }} }}"
        for size in (0, MAX_PAGE):
            assert "errors" not in await ask(plane, admin, query, {"n": size})
        for size in (-1, MAX_PAGE + 1, 2**31 - 1):
            body = await ask(plane, admin, query, {"n": size})
            (error,) = body["errors"]
            assert error["extensions"] == {"code": "INVALID_INPUT", "field": [argument]}
            assert error["message"] == f"{argument} is 0 to {MAX_PAGE}, got {size}."
            assert body["data"] == {"machines": None}


async def test_both_directions_at_once(plane: ControlPlane) -> None:
    body = await ask(plane, await as_admin(), "{ machines(first: 1, last: 1) { totalCount } }")
    assert codes(body) == ["INVALID_INPUT"]


async def test_nodes(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await make_host(plane)
    query = "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    body = await ask(plane, admin, query, {"ids": [host.id] * MAX_NODES})
    assert body["data"]["nodes"] == [{"id": host.id}] * MAX_NODES
    body = await ask(plane, admin, query, {"ids": [host.id] * (MAX_NODES + 1)})
    (error,) = body["errors"]
    assert error["extensions"] == {"code": "INVALID_INPUT", "field": ["ids"]}


async def _refusal(plane: ControlPlane, variables: dict[str, Any]) -> dict[str, Any]:
    source = (
        "subscription S($ids: [ID!]!, $every: Float) "
        "{ machineMetrics(machineIds: $ids, intervalSeconds: $every) { machineId } }"
    )
    async with following(plane, await as_admin(), source, variables) as live:
        with pytest.raises(RequestRefused) as refused:
            await live.next()
    return dict(refused.value.errors[0].extensions or {})


async def test_machines_of_a_subscription(plane: ControlPlane) -> None:
    host = await make_host(plane)
    await host.publish()
    refused = {"code": "INVALID_INPUT", "field": ["machineIds"]}
    assert await _refusal(plane, {"ids": []}) == refused
    assert await _refusal(plane, {"ids": [host.id] * (MAX_MACHINES + 1)}) == refused
    source = "subscription S($ids: [ID!]!) { machineMetrics(machineIds: $ids) { machineId } }"
    async with following(
        plane, await as_admin(), source, {"ids": [host.id] * MAX_MACHINES}
    ) as live:
        assert (await live.data())["machineMetrics"]["machineId"] == host.id


async def test_interval(plane: ControlPlane) -> None:
    host = await make_host(plane)
    await host.publish()
    refused = {"code": "INVALID_INPUT", "field": ["intervalSeconds"]}
    for every in (0, -1, MIN_SAMPLE_INTERVAL - 0.001, MAX_INTERVAL + 0.001, 1e300):
        assert await _refusal(plane, {"ids": [host.id], "every": every}) == refused, every
    source = (
        "subscription S($id: ID!, $every: Float) "
        "{ machineMetrics(machineIds: [$id], intervalSeconds: $every) { machineId } }"
    )
    for every in (MIN_SAMPLE_INTERVAL, MAX_INTERVAL):
        variables = {"id": host.id, "every": every}
        async with following(plane, await as_admin(), source, variables) as live:
            assert (await live.data())["machineMetrics"]["machineId"] == host.id
    literal = (
        f'subscription {{ machineMetrics(machineIds: ["{host.id}"], intervalSeconds: 1e999) '
        "{ machineId } }"
    )
    with pytest.raises(RequestRefused):
        async with following(plane, await as_admin(), literal) as live:
            await live.next()


# --- hostile documents


def _chain(length: int, spreads: int, leaf: str) -> str:
    """Fragments that each spread the next one `spreads` times."""
    parts = [f"fragment F{i} on Fleet {{ {f'...F{i + 1} ' * spreads}}}" for i in range(length)]
    return "{ fleet { ...F0 } } " + " ".join(parts) + f" fragment F{length} on Fleet {{ {leaf} }}"


def _mesh(size: int) -> str:
    """Every fragment spreads every one after it."""
    parts = [
        f"fragment F{i} on Fleet {{ {''.join(f'...F{j} ' for j in range(i + 1, size))} __typename }}"
        for i in range(size)
    ]
    return "{ fleet { ...F0 } } " + " ".join(parts)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("doubling, plain", _chain(70, 2, "machines { total }"), "LIMIT_EXCEEDED"),
        ("doubling, leaves", _chain(70, 2, "__typename"), None),
        ("doubling, aliases", _chain(70, 2, "a: __typename"), "LIMIT_EXCEEDED"),
        ("doubling, directives", _chain(70, 2, "__typename @skip(if: false)"), "LIMIT_EXCEEDED"),
        ("tenfold", _chain(25, 10, "machines { total }"), "LIMIT_EXCEEDED"),
        ("mesh", _mesh(26), None),
        ("long chain", _chain(110, 1, "machines { total }"), None),
        ("one field often", "{ " + "fleet { machines { total } } " * 140 + "}", None),
        ("one leaf often", "{ fleet { " + "__typename " * 980 + "} }", "GRAPHQL_VALIDATION_FAILED"),
        ("many selections", "{ " + "fleet { gpus { total } machines { total } } " * 90 + "}", None),
        ("deep selections", "{ a " * 300 + "}" * 300, "LIMIT_EXCEEDED"),
        ("deep lists", "{ nodes(ids: " + "[" * 450 + "]" * 450 + ") { id } }", "LIMIT_EXCEEDED"),
        (
            "deep objects",
            "{ machines(filter: " + "{a: " * 240 + "1" + "}" * 240 + ") { a } }",
            None,
        ),
        ("deep types", "query Q($a: " + "[" * 450 + "Int" + "]" * 450 + ") { fleet { a } }", None),
        ("deep inline", "{ fleet { " + "... { " * 200 + "__typename" + " }" * 200 + "} }", None),
        ("cycle of one", "{ fleet { ...A } } fragment A on Fleet { ...A }", None),
        (
            "cycle of two",
            "{ fleet { ...A } } fragment A on Fleet { ...B } fragment B on Fleet { ...A }",
            "GRAPHQL_VALIDATION_FAILED",
        ),
        ("missing fragment", "{ fleet { ...A } }", "GRAPHQL_VALIDATION_FAILED"),
        ("only a fragment", "fragment A on Fleet { __typename }", "GRAPHQL_VALIDATION_FAILED"),
        ("nothing", "", "GRAPHQL_PARSE_FAILED"),
        ("a comment", "# nothing", "GRAPHQL_PARSE_FAILED"),
        ("a type", "type A { b: Int }", "GRAPHQL_VALIDATION_FAILED"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_hostile_document_is_dealt_with_soon(name: str, source: str, expected: str | None) -> None:
    engine, began = Engine(), time.process_time()
    code = None
    try:
        engine.price(engine.prepare(source, None, signed_in=True), {})
    except RequestRefused as refused:
        code = str((refused.errors[0].extensions or {})["code"])
    assert time.process_time() - began < SOON, name
    if expected is not None:
        assert code == expected, name


async def test_hostile_document_that_costs_nothing_runs_soon(plane: ControlPlane) -> None:
    """Fragments are collected once, however often they are spread."""
    began = time.process_time()
    body = await ask(plane, await as_admin(), _chain(70, 2, "__typename"))
    assert body["data"] == {"fleet": {"__typename": "Fleet"}}
    assert time.process_time() - began < SOON


def test_memory_of_documents_is_bounded() -> None:
    """Documents beyond a length are not kept, and of the others only the latest."""
    engine = Engine()
    long = "{ fleet { __typename } } #" + "x" * 20_000
    engine.prepare(long, None, signed_in=True)
    assert long not in engine._documents
    for number in range(505):
        engine.prepare(f"{{ fleet {{ __typename }} }} # {number}", None, signed_in=True)
    assert len(engine._documents) == 500


def test_anonymous_callers_keep_the_limits_too() -> None:
    checks: list[Callable[[], str]] = [
        lambda: _refused(_deep(MAX_DEPTH + 1), signed_in=False)[0],
        lambda: _refused(_aliases(MAX_ALIASES + 1), signed_in=False)[0],
    ]
    assert [check() for check in checks] == ["LIMIT_EXCEEDED"] * 2

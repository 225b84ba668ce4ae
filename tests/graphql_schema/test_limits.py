"""Every bound of a document: what just fits, and one more."""

from collections.abc import Callable
from typing import Any

import pytest
from graphql import get_introspection_query

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.paging import MAX_PAGE
from remotegpu_graphql.engine import Engine, RequestRefused
from remotegpu_graphql.limits import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_DIRECTIVES,
    MAX_TOKENS,
)
from remotegpu_graphql.metrics.subscriptions import MAX_INTERVAL, MAX_MACHINES
from remotegpu_graphql.nodes import MAX_NODES
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL
from tests.graphql_schema.asking import ask, codes, following
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_admin


def _refused(source: str, *, signed_in: bool = True) -> tuple[str, str]:
    """Code and message with which a document is refused."""
    with pytest.raises(RequestRefused) as refused:
        Engine().prepare(source, None, signed_in=signed_in)
    error = refused.value.errors[0]
    return str((error.extensions or {})["code"]), error.message


def _accepted(source: str, *, signed_in: bool = True) -> None:
    Engine().prepare(source, None, signed_in=signed_in)


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


def test_anonymous_callers_keep_the_limits_too() -> None:
    checks: list[Callable[[], str]] = [
        lambda: _refused(_deep(MAX_DEPTH + 1), signed_in=False)[0],
        lambda: _refused(_aliases(MAX_ALIASES + 1), signed_in=False)[0],
    ]
    assert [check() for check in checks] == ["LIMIT_EXCEEDED"] * 2

"""Every bound of a document: what just fits, and one more."""

from collections.abc import Callable
from typing import Any

import pytest
from graphql import get_introspection_query

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.paging import MAX_PAGE
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.limits import (
    MAX_ALIASES,
    MAX_DEPTH,
    MAX_DIRECTIVES,
    MAX_FRAGMENTS,
    MAX_LENGTH,
    MAX_LENGTH_OF_STRANGERS,
    MAX_LINES,
    MAX_NESTING,
    MAX_NUMBER,
    MAX_OPERATIONS,
    MAX_PAIRS,
    MAX_SELECTIONS,
    MAX_TOKENS,
    MAX_TOKENS_OF_STRANGERS,
    MAX_VALUES,
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
    # Braces are four tokens, the two fields are two, a word of the list is one.
    words = " ".join(f"a{number}" for number in range(MAX_TOKENS - 6))
    # It is read; what it asks for is another matter.
    assert _refused(f"{{ fleet {{ __typename }} {words} }}")[0] == "GRAPHQL_VALIDATION_FAILED"
    code, message = _refused(f"{{ fleet {{ __typename }} {words} more }}")
    assert (code, str(MAX_TOKENS) in message) == ("LIMIT_EXCEEDED", True)


def test_tokens_without_sign_in() -> None:
    words = " ".join(f"a{number}" for number in range(MAX_TOKENS_OF_STRANGERS - 2))
    engine = Engine()
    for source, code in (
        (f"{{ {words} }}", "GRAPHQL_VALIDATION_FAILED"),
        (f"{{ {words} more }}", "UNAUTHENTICATED"),
    ):
        for signed_in in (False, True, False):
            # Whoever sent it before makes no difference.
            with pytest.raises(RequestRefused) as refused:
                engine.prepare(source, None, signed_in=signed_in)
            expected = "GRAPHQL_VALIDATION_FAILED" if signed_in else code
            assert (refused.value.errors[0].extensions or {})["code"] == expected
    assert _refused(f"{{ {words} more }}", signed_in=False)[1] == (
        "Sign in first: without it a document has at most 250 tokens and 4096 characters."
    )


def test_characters() -> None:
    source = "{ fleet { __typename } } #"
    _accepted(source.ljust(MAX_LENGTH, "x"))
    assert _refused(source.ljust(MAX_LENGTH + 1, "x")) == (
        "LIMIT_EXCEEDED",
        (
            f"The document has {MAX_LENGTH + 1} characters, at most {MAX_LENGTH} are allowed: "
            "send long values as variables."
        ),
    )


def test_characters_without_sign_in() -> None:
    source = "{ fleet { __typename } } #"
    _accepted(source.ljust(MAX_LENGTH_OF_STRANGERS, "x"), signed_in=False)
    longer = source.ljust(MAX_LENGTH_OF_STRANGERS + 1, "x")
    engine = Engine()
    for _ in range(2):
        with pytest.raises(RequestRefused) as refused:
            engine.prepare(longer, None, signed_in=False)
        assert refused.value.errors[0].extensions == {"code": "UNAUTHENTICATED"}
        engine.prepare(longer, None, signed_in=True)


def test_lines() -> None:
    source = "{ fleet { __typename } }"
    _accepted(source + "\n" * (MAX_LINES - 1) + "\r")
    assert _refused(source + "\r\n" * (MAX_LINES // 2) + "\n") == (
        "LIMIT_EXCEEDED",
        f"The document has {MAX_LINES + 1} lines, at most {MAX_LINES} are allowed.",
    )


def test_operations_and_fragments() -> None:
    def operations(count: int) -> str:
        return " ".join(f"query Q{number} {{ fleet {{ __typename }} }}" for number in range(count))

    Engine().prepare(operations(MAX_OPERATIONS), "Q0", signed_in=True)
    message = (
        f"The document has {MAX_OPERATIONS + 1} operations, at most {MAX_OPERATIONS} are allowed."
    )
    assert _refused(operations(MAX_OPERATIONS + 1)) == ("LIMIT_EXCEEDED", message)

    def fragments(count: int) -> str:
        spreads = " ".join(f"a{n % 15}: fleet {{ ...F{n} }}" for n in range(count))
        return f"{{ {spreads} }} " + " ".join(
            f"fragment F{number} on Fleet {{ __typename }}" for number in range(count)
        )

    # As many may be there; that they are spread takes aliases.
    assert "aliases" in _refused(fragments(MAX_FRAGMENTS))[1]
    message = (
        f"The document has {MAX_FRAGMENTS + 1} fragments, at most {MAX_FRAGMENTS} are allowed."
    )
    assert _refused(fragments(MAX_FRAGMENTS + 1)) == ("LIMIT_EXCEEDED", message)


def test_selections() -> None:
    """Fragments count wherever they are spread, and once where they are spread twice."""
    inner = "fragment A on FleetMachines { total online unreachable lost }"

    def document(times: int) -> str:
        spread = " ".join("... on Fleet { machines { ...A ...A } }" for _ in range(times))
        return f"{{ fleet {{ {spread} }} }} {inner}"

    assert MAX_SELECTIONS == 1000
    _accepted(document(12))
    wide = " ".join(f"{name} {{ ...B }}" for name in "abcdefghij")
    nested = f"{{ {wide} }} fragment B on X {{ {wide.replace('B', 'C')} }} fragment C on X {{ {wide.replace('...B', 'x')} }}"
    code, message = _refused(nested)
    assert code == "LIMIT_EXCEEDED"
    assert message.startswith("With fragments in the place of their spreads the document has 10")
    assert message.endswith(f" selections, at most {MAX_SELECTIONS} are allowed.")


def test_repeated_selections() -> None:
    def document(times: int) -> str:
        return "{" + "viewer { user { id } } " * times + "}"

    # Of two fields with fields of their own, which count three times, and one without.
    assert 7 * 12 * 11 // 2 <= MAX_PAIRS < 7 * 13 * 12 // 2
    _accepted(document(12))
    assert _refused(document(13))[0] == "LIMIT_EXCEEDED"
    # Leaves count once.
    _accepted("{ fleet { " + "__typename " * 32 + "} }")
    assert _refused("{ fleet { " + "__typename " * 33 + "} }")[0] == "LIMIT_EXCEEDED"
    code, message = _refused(document(140))
    assert code == "LIMIT_EXCEEDED"
    assert message == (
        "The document selects the same fields in the same places too often: 68110 pairs of "
        f"selections would have to be compared, at most {MAX_PAIRS} are allowed. 'viewer' is "
        "selected 140 times in one place: select it once."
    )
    # Through fragments and inline fragments, of other types too, and by its alias.
    fragments = " ".join(f"fragment F{n} on Fleet {{ a: machines {{ total }} }}" for n in range(15))
    spread = " ".join(f"...F{n}" for n in range(15))
    _accepted(f"{{ fleet {{ {spread} }} }} {fragments}")
    more = " ... on Viewer { a: __typename }" * 14
    code, message = _refused(f"{{ fleet {{ {spread} {more} }} }} {fragments}", signed_in=True)
    assert "'a' is selected 29 times" in message or "aliases" in message


def test_selection_sets_within_each_other() -> None:
    def document(levels: int) -> str:
        inline = levels - 3
        return (
            "{ fleet { ...A } } fragment A on Fleet { "
            + "... { " * inline
            + "__typename"
            + " }" * (inline + 1)
        )

    _accepted(document(MAX_NESTING))
    code, message = _refused(document(MAX_NESTING + 1))
    assert (code, message) == (
        "LIMIT_EXCEEDED",
        f"The operation nests {MAX_NESTING + 1} selection sets, at most {MAX_NESTING} are allowed.",
    )


def test_values() -> None:
    def document(values: int) -> str:
        # The list and the argument of the directive are values too.
        ids = " ".join(f'"{number}"' for number in range(values - 2))
        return f"{{ nodes(ids: [{ids}]) @include(if: true) {{ id }} }}"

    # It is read; what `nodes` takes is another matter.
    _accepted(document(MAX_VALUES))
    assert _refused(document(MAX_VALUES + 1)) == (
        "LIMIT_EXCEEDED",
        f"The document's arguments hold {MAX_VALUES + 1} values, at most {MAX_VALUES} are allowed.",
    )
    labels = '{key: "a", value: "b"} ' * 84
    assert (
        "values" in _refused(f"{{ machines(filter: {{labels: [{labels}]}}) {{ totalCount }} }}")[1]
    )
    default = " ".join('"x"' for _ in range(MAX_VALUES))
    assert (
        "values" in _refused(f"query Q($a: [ID!]! = [{default}]) {{ nodes(ids: $a) {{ id }} }}")[1]
    )


@pytest.mark.parametrize("number", ["9" * 41, "1" + "0" * 5000, "0." + "1" * 39, "-" + "1" * 40])
def test_digits(number: str) -> None:
    code, message = _refused(f"{{ machines(first: {number}) {{ totalCount }} }}")
    assert code == "LIMIT_EXCEEDED"
    assert message == f"A number has {len(number)} digits, at most {MAX_NUMBER} are allowed."
    # What fits that is told of in the field's own words.
    assert "LIMIT" not in _refused(f"{{ machines(first: {number[:40]}) {{ totalCount }} }}")[0]


def test_what_comparing_takes_is_bounded_whatever_it_is() -> None:
    """Fragments that spread each other are compared in pairs, which no count of theirs tells."""
    size = 20
    parts = [
        f"fragment F{i} on Fleet {{ {''.join(f'...F{j} ' for j in range(i + 1, size))} __typename }}"
        for i in range(size)
    ]
    code, message = _refused("{ fleet { ...F0 } } " + " ".join(parts))
    assert code == "LIMIT_EXCEEDED"
    assert message.startswith("Comparing the document's fields and fragments takes too long: ")


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


def test_introspection_is_as_deep_as_it_is() -> None:
    _accepted(get_introspection_query())
    # Nothing else gets deeper by standing beside it.
    deep = _deep(MAX_DEPTH + 1)[:-1] + " __schema { queryType { name } } }"
    assert _refused(deep)[0] == "LIMIT_EXCEEDED"


def test_introspection_that_grows_with_its_depth_is_refused() -> None:
    bomb = "{ __schema { types { fields { type { fields { type { fields { type { name } } } } } } } } }"
    assert _refused(bomb)[0] == "GRAPHQL_VALIDATION_FAILED"


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

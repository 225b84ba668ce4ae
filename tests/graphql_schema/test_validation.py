"""Our walk finds what graphql-core's does, and stops where it is told to."""

import graphql
import pytest
from graphql import GraphQLError, parse, specified_rules
from hypothesis import HealthCheck, given, settings

from remotegpu_graphql.limits import MAX_LENGTH
from remotegpu_graphql.validation import TooCostly, validate
from tests.graphql_schema.contract import contract_operations
from tests.graphql_schema.worst_documents import SCHEMA, Recipe, recipes


def _compare(source: str) -> list[str]:
    document = parse(source)
    expected = graphql.validate(SCHEMA, document, max_errors=1000, hide_suggestions=True)
    try:
        found = validate(SCHEMA, document, specified_rules, max_errors=1000)
    except TooCostly:
        assert expected[-1].message == "Validation aborted."
        return ["Too costly."]
    assert [_shown(error) for error in found] == [_shown(error) for error in expected]
    return [error.message for error in found]


def _shown(error: GraphQLError) -> tuple[str, object]:
    """Without what we suggest for the first errors."""
    return error.message.partition(" Did you mean")[0], error.locations


@settings(max_examples=12, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_errors_are_those_of_graphql_core(recipe: Recipe) -> None:
    _compare(recipe.document(share=0.02))


@pytest.mark.parametrize("source", sorted({each.source for each in contract_operations()}))
def test_the_contract_is_valid(source: str) -> None:
    assert _compare(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "query A { a } query A { b } { c } fragment F on Fleet { x } fragment F on X { ...F }",
        "query Q($a: [Int!]! = 1, $a: Machine, $b: ID) { node(id: $c, id: 1) { id @skip @x(a: 1) } }",
        "subscription S { machineChanged { kind } fleetChanged { machines { total } } }",
        "type A { b: Int } extend type Query { c: Int } { __typename }",
        'mutation { signIn(input: {username: "a", username: 1, other: {b: [1, $d]}}) { token { x } } }',
        "{ node(id: 1) { ... on Fleet { machines { total } } ... on Machine @include(if: $e) { id } } }",
        "query ($n: Int = 1) @skip(if: true) { machines(first: $n) { edges { node { name: id name } } } }",
        "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A machines { totalCount { a } } }",
        '{ __type(name: "a") { fields { type { fields { type { fields { name } } } } } } }',
        "query Q($i: AllocateInput!) { planAllocation(input: $i) { possible @deprecated } }",
    ],
)
def test_every_kind_of_error(source: str) -> None:
    assert _compare(source) != []


def test_it_stops_at_as_many_errors() -> None:
    words = " ".join(f"machine{number}" for number in range(50))
    errors = validate(SCHEMA, parse(f"{{ {words} }}"), specified_rules, max_errors=3)
    assert len(errors) == 3
    # Only the first tell what may have been meant: looking for it takes time.
    assert ["Did you mean" in error.message for error in errors] == [True, True, False]
    (error,) = validate(SCHEMA, parse("{ ... on Machin { id } }"), specified_rules, max_errors=1)
    assert error.message == "Unknown type 'Machin'."


def test_it_stops_when_it_would_take_too_long() -> None:
    document = parse("{ " + "viewer { user { id } } " * 140 + "}")
    with pytest.raises(TooCostly):
        validate(SCHEMA, document, specified_rules, max_errors=3)
    assert len(document.loc.source.body if document.loc else "") < MAX_LENGTH

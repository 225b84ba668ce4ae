"""Every list and string of every input has a bound, which is told and kept."""

from typing import Annotated, Any

import pytest
import strawberry
from graphql import GraphQLList, GraphQLNonNull, GraphQLSchema, get_named_type

from remotegpu_core.actor import anonymous
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import AuditEvent, Outcome
from remotegpu_graphql.bounds import bound_of, characters, declare_bounds, inputs_of, items
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.variable_bounds import MAX_VARIABLE_VALUES, check_variables
from tests.graphql_schema.asking import ask, codes
from tests.graphql_schema.people import as_admin

SCHEMA = Engine().schema

#: Scalars that arrive as strings and whose own grammar is bounded.
BOUNDED_SCALARS = {"ID", "DateTime"}


def _is_list(type_: Any) -> bool:
    return isinstance(type_.of_type if isinstance(type_, GraphQLNonNull) else type_, GraphQLList)


def _unbounded(schema: GraphQLSchema) -> list[str]:
    """Inputs that lack a bound, or do not tell theirs."""
    found = []
    for where, declared in inputs_of(schema):
        bound = bound_of(declared)
        if _is_list(declared.type) != (bound.items is not None):
            found.append(f"{where} items")
        if (get_named_type(declared.type).name == "String") != (bound.characters is not None):
            found.append(f"{where} characters")
        if not (declared.description or "").endswith(bound.sentence()):
            found.append(f"{where} description")
    return found


def test_every_list_and_string_has_a_bound() -> None:
    assert _unbounded(SCHEMA) == []
    named = {get_named_type(declared.type).name for _, declared in inputs_of(SCHEMA)}
    strings = {"String", "ID", "DateTime"}
    assert strings & named == strings
    assert strings - {"String"} == BOUNDED_SCALARS


@strawberry.input
class Inner:
    tags: list[str] = strawberry.field(
        description="Any.", metadata=items(1, 2) | characters(1, 3), default_factory=list
    )
    forgotten: list[int] | None = None


@strawberry.type
class Query:
    @strawberry.field
    def echo(
        self,
        text: Annotated[
            str | None, strawberry.argument(description="Said.", metadata=characters(0, 4))
        ] = None,
        inner: list[Inner] | None = None,
        loose: str | None = None,
    ) -> int:
        return 1


def test_a_missing_bound_would_be_found() -> None:
    schema = strawberry.Schema(query=Query)._schema
    declare_bounds(schema)
    assert _unbounded(schema) == [
        "Query.echo(inner:) items",
        "Query.echo(loose:) characters",
        "Inner.forgotten items",
    ]
    told = {where: declared.description for where, declared in inputs_of(schema)}
    assert told["Query.echo(text:)"] == "Said. At most 4 characters."
    assert told["Inner.tags"] == "Any. 1 to 2 elements, each of 1 to 3 characters."


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ("text: $s", {"s": "1234"}, None),
        ("text: $s", {"s": "12345"}, "text has at most 4 characters, got 5."),
        ("text: $d", {}, "text has at most 4 characters, got 7."),
        ('text: "12345"', {}, "text has at most 4 characters, got 5."),
        ("inner: {tags: []}", {}, "inner.0.tags takes 1 to 2 elements, got 0."),
        ('inner: {tags: "a"}', {}, None),
        ('inner: {tags: ["abcd"]}', {}, "inner.0.tags.0 has 1 to 3 characters, got 4."),
        ("inner: $i", {"i": [{"tags": ["a"]}, {"tags": ["a"] * 3}]},
         "inner.1.tags takes 1 to 2 elements, got 3."),
        ("inner: $i", {"i": {"tags": None}}, None),
        # What does not fit its type is left to coercion, which says more.
        ("inner: $i", {"i": [7, [], "x", {"tags": [7, None]}]}, None),
    ],
)  # fmt: skip
def test_what_is_beyond(arguments: str, variables: dict[str, Any], message: str | None) -> None:
    schema = strawberry.Schema(query=Query)
    declare_bounds(schema._schema)
    engine = Engine(schema)
    types = {"$s": "String", "$i": "[Inner!]", "$d": 'String = "default"'}
    declared = " ".join(f"{name}: {type_}" for name, type_ in types.items() if name in arguments)
    source = f"query {f'Q({declared})' if declared else ''} {{ echo({arguments}) }}"
    operation = engine.prepare(source, None, signed_in=True)
    if message is None:
        engine.price(operation, variables)
        return
    with pytest.raises(RequestRefused) as refused:
        engine.price(operation, variables)
    (error,) = refused.value.errors
    field = message.split()[0].split(".")
    assert (error.message, error.extensions) == (
        message,
        {"code": "INVALID_INPUT", "field": field},
    )


async def test_a_query_beyond_a_bound_does_not_run(plane: ControlPlane) -> None:
    source = "query Q($l: [LabelInput!]) { machines(filter: {labels: $l}) { totalCount } }"
    label = {"key": "a", "value": "b"}
    admin = await as_admin()
    body = await ask(plane, admin, source, {"l": [label] * 64})
    assert body["data"] == {"machines": {"totalCount": 0}}
    body = await ask(plane, admin, source, {"l": [label] * 100})
    (error,) = body["errors"]
    assert error["extensions"] == {"code": "INVALID_INPUT", "field": ["filter", "labels"]}
    assert error["message"] == "filter.labels takes at most 64 elements, got 100."
    assert "data" not in body
    body = await ask(plane, admin, source, {"l": [label] * 990})
    (error,) = body["errors"]
    assert error["extensions"] == {"code": "LIMIT_EXCEEDED"}
    assert error["message"].startswith("The variables hold more than 1000 values")
    assert "data" not in body


@pytest.mark.parametrize(
    ("variables", "fits"),
    [
        ({"l": [None] * (MAX_VARIABLE_VALUES - 1)}, True),
        ({"l": [None] * MAX_VARIABLE_VALUES}, False),
        ({str(number): number for number in range(MAX_VARIABLE_VALUES)}, True),
        ({"l": [{"a": [[]]}] * (MAX_VARIABLE_VALUES // 3)}, True),
        ({"l": [{"a": [[]]}] * (MAX_VARIABLE_VALUES // 3 + 1)}, False),
    ],
)
def test_values_in_variables(variables: dict[str, Any], fits: bool) -> None:
    """Elements of lists and fields of objects are counted, declared or not."""
    assert (check_variables(variables) is None) is fits


async def test_a_mutation_tells_it_as_a_user_error(plane: ControlPlane) -> None:
    """After its permission, before it does anything, and the others of the document run."""
    source = (
        "mutation M($long: String!) { "
        'a: createWorkspace(input: {name: "lab"}) { workspace { name } userErrors { field } } '
        "b: createWorkspace(input: {name: $long}) "
        "{ workspace { name } userErrors { field message code } } }"
    )
    body = await ask(plane, await as_admin(), source, {"long": "x" * 65})
    assert body["data"] == {
        "a": {"workspace": {"name": "lab"}, "userErrors": []},
        "b": {
            "workspace": None,
            "userErrors": [
                {
                    "field": ["name"],
                    "message": "name has 1 to 64 characters, got 65.",
                    "code": "INVALID_INPUT",
                }
            ],
        },
    }
    event = await AuditEvent.filter(action="createWorkspace").order_by("-id").first()
    assert event is not None
    assert (event.outcome, event.details) == (
        Outcome.FAILED,
        {"code": "INVALID_INPUT", "field": "name"},
    )
    body = await ask(plane, anonymous(None), source, {"long": "x" * 65})
    assert set(codes(body)) == {"UNAUTHENTICATED"}

"""Variables that do not fit are told by their path, in the words of JSON, without their values."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from graphql import GraphQLInputObjectType, OperationDefinitionNode, parse
from graphql.execution.values import get_variable_values

from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.variables import unfit_variables
from tests.graphql_schema.asking import ask, codes
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_admin

SCHEMA = Engine().schema
SECRET = "correct horse"
VALUES: tuple[Any, ...] = (
    *(None, True, 5, 1.5, 10**400, float("inf"), float("nan")),
    *("", SECRET, [], [None], {}, {"unknown": SECRET}),
)
INPUTS = [t for t in SCHEMA.type_map.values() if isinstance(t, GraphQLInputObjectType)]
#: Words of Python, and what a message would be without.
PYTHON = re.compile(r"\b(None|inf|nan|True|False|dict|Undefined)\b")


def _given(type_: GraphQLInputObjectType) -> Iterator[Any]:
    yield from VALUES
    for name in type_.fields:
        for value in VALUES:
            yield {name: value}


@pytest.mark.parametrize("type_", INPUTS, ids=lambda type_: type_.name)
def test_every_input_tells_what_it_expected(type_: GraphQLInputObjectType) -> None:
    source = f"query Q($input: {type_.name}!) {{ __typename }}"
    operation = parse(source).definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    for value in _given(type_):
        variables = {"input": value}
        refused = get_variable_values(SCHEMA, operation.variable_definitions or (), variables)
        told = unfit_variables(SCHEMA, operation, variables)
        # As much is refused as graphql-core refuses.
        assert bool(told) is isinstance(refused, list), (value, refused)
        for error in told:
            assert error.message.startswith("Variable $input"), error.message
            assert "expected " in error.message or "Its fields: " in error.message
            assert not PYTHON.search(error.message), error.message
            assert SECRET not in error.message
            assert len(error.message) < 700


QUERY = """
query Q($filter: MachineFilter, $id: ID!, $way: OrderDirection! = ASC) {
  machines(filter: $filter, orderBy: {field: NAME, direction: $way}) { totalCount }
  node(id: $id) { id }
}
"""


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "Variable $id is missing: expected an id, which is a string."),
        ({"id": None}, "Variable $id cannot be null: expected an id, which is a string."),
        ({"id": 1.5}, "got a number with a fraction."),
        ({"id": "x", "filter": {"health": [None]}}, "$filter.health[0] cannot be null"),
        (
            {"id": "x", "filter": {"freeGpus": {"atLeast": float("inf")}}},
            "-2147483648 to 2147483647, got a number that is not finite.",
        ),
        ({"id": "x", "filter": {"freeGpus": {}}}, "$filter.freeGpus.atLeast is missing: expected"),
        ({"id": "x", "way": "UP"}, "Variable $way: expected one of ASC, DESC, got a string."),
    ],
)
async def test_answers_tell_it(plane: ControlPlane, variables: Any, message: str) -> None:
    answer = await ask(plane, await as_admin(), QUERY, variables)
    assert codes(answer) == ["INVALID_INPUT"]
    assert message in answer["errors"][0]["message"]
    assert "data" not in answer


async def test_gpus_without_their_machine_and_lists_of_what_is_not_mine(
    plane: ControlPlane,
) -> None:
    admin, host = await as_admin(), await make_host(plane)
    allocate = "mutation A($input: AllocateInput!) { allocate(input: $input) { userErrors { field message } } }"
    given = {"gpuIds": host.gpu_ids, "endsAt": "2999-01-01T00:00:00Z"}
    answer = await ask(plane, admin, allocate, {"input": given})
    (error,) = answer["data"]["allocate"]["userErrors"]
    assert error["field"] == ["gpuIds"]
    assert "machineId too" in error["message"]
    assert "requirement" in error["message"]
    lists = "query Q($mine: Boolean) { machines(filter: {mine: $mine}) { totalCount } }"
    answer = await ask(plane, admin, lists, {"mine": False})
    assert answer["data"]["machines"]["totalCount"] == 1
    (note,) = answer["extensions"]["ignored"]
    assert note.startswith("machines(filter: {mine: false})")
    assert "ignored" not in (await ask(plane, admin, lists, {"mine": True}))["extensions"]


async def test_a_number_beyond_all_numbers_is_refused(plane: ControlPlane) -> None:
    source = "subscription { machineMetrics(machineIds: [], intervalSeconds: 1e999) { machineId } }"
    answer = await ask(plane, await as_admin(), source)
    assert answer["errors"][0]["message"] == "A number is less than 1.8e308, got 1e999."

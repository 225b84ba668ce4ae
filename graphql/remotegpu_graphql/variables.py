"""Why variables do not fit their types: in the words of JSON, by path, and without their values.

graphql-core coerces variables. It tells of what does not fit in Python's words (None, inf), and
quotes it: passwords come in variables, and errors go into the logs of clients.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from graphql import (
    GraphQLEnumType,
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLScalarType,
    GraphQLSchema,
    OperationDefinitionNode,
    Undefined,
    get_named_type,
    is_input_type,
    type_from_ast,
)

from remotegpu_protocol.grammar import shorten
from remotegpu_protocol.values import MAX_SAFE_INTEGER

_MAX_ERRORS: Final = 5

#: Values of an enum that are listed.
_MAX_LISTED: Final = 20

_EXPECTED: Final = {
    "Int": "an integer from -2147483648 to 2147483647",
    "Float": "a number",
    "String": "a string",
    "Boolean": "true or false",
    "ID": "an id, which is a string",
    "DateTime": "a time in ISO 8601 with a time zone, such as 2026-01-31T12:34:56.789Z",
    "ByteCount": f"an integer from 0 to {MAX_SAFE_INTEGER}",
    "Count": f"an integer from 0 to {MAX_SAFE_INTEGER}",
}


def unfit_variables(
    schema: GraphQLSchema, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> list[GraphQLError]:
    """What does not fit the variables that a valid operation declares, the first few."""
    return list(islice(_unfit(schema, operation, variables), _MAX_ERRORS))


def _unfit(
    schema: GraphQLSchema, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> Iterator[GraphQLError]:
    for definition in operation.variable_definitions or ():
        type_ = type_from_ast(schema, definition.type)
        if type_ is None or not is_input_type(type_):
            continue
        name = definition.variable.name.value
        path = f"${name}"
        if name not in variables:
            if isinstance(type_, GraphQLNonNull) and definition.default_value is None:
                message = f"Variable {path} is missing: expected {_expected(type_)}."
                yield _error(message, definition)
            continue
        for message in _look(type_, variables[name], path):
            yield _error(f"Variable {message}", definition)


def _look(type_: GraphQLInputType, value: Any, path: str) -> Iterator[str]:
    if value is None:
        if isinstance(type_, GraphQLNonNull):
            yield f"{path} cannot be null: expected {_expected(type_)}."
        return
    if isinstance(type_, GraphQLNonNull):
        type_ = type_.of_type
    if isinstance(type_, GraphQLList):
        # One value stands for a list of it.
        if not isinstance(value, list):
            yield from _look(type_.of_type, value, path)
            return
        for position, element in enumerate(value):
            yield from _look(type_.of_type, element, f"{path}[{position}]")
    elif isinstance(type_, GraphQLInputObjectType):
        yield from _look_into(type_, value, path)
    elif not _fits(type_, value):
        yield f"{path}: expected {_expected(type_)}, got {_kind(value)}."


def _look_into(type_: GraphQLInputObjectType, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: expected {_expected(type_)}, got {_kind(value)}."
        return
    for name, field in type_.fields.items():
        if name in value:
            yield from _look(field.type, value[name], f"{path}.{name}")
        elif isinstance(field.type, GraphQLNonNull) and field.default_value is Undefined:
            yield f"{path}.{name} is missing: expected {_expected(field.type)}."
    for name in value:
        if name not in type_.fields:
            yield (
                f"{path} has a field {shorten(str(name))!r} that {type_.name} does not have. "
                f"Its fields: {_listed(type_.fields)}."
            )


def _fits(type_: GraphQLScalarType | GraphQLEnumType, value: Any) -> bool:
    try:
        return type_.parse_value(value) is not Undefined
    except Exception:  # noqa: BLE001 - graphql-core too takes any exception of a scalar as its refusal
        return False


def _expected(type_: GraphQLInputType) -> str:
    if isinstance(type_, GraphQLNonNull):
        return _expected(type_.of_type)
    if isinstance(type_, GraphQLList):
        return f"a list of {get_named_type(type_).name}"
    if isinstance(type_, GraphQLInputObjectType):
        return f"an object of type {type_.name}"
    if isinstance(type_, GraphQLEnumType):
        return f"one of {_listed(type_.values)}"
    return _EXPECTED.get(type_.name, type_.name)


def _listed(names: Mapping[str, object]) -> str:
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return ", ".join(islice(names, _MAX_LISTED)) + more


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return "an integer" if abs(value) < 2**31 else "an integer out of that range"
        case float():
            if not math.isfinite(value):
                return "a number that is not finite"
            return "an integer" if value.is_integer() else "a number with a fraction"
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "a list"
        case _:
            return "an object"


def _error(message: str, definition: Any) -> GraphQLError:
    return GraphQLError(message, definition, extensions={"code": "INVALID_INPUT"})

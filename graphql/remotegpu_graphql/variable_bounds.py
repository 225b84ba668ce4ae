"""Bounds of the variables of a request, checked before they are coerced."""

from collections.abc import Mapping
from typing import Any, Final

from graphql import GraphQLError

from remotegpu_core.texts import storable
from remotegpu_graphql.limits import LimitError
from remotegpu_graphql.texts import NOT_STORABLE

#: Values in all variables, each element of a list and each field of an object counted: several
#: times what the largest input takes.
MAX_VARIABLE_VALUES: Final = 1000


def check_variables(variables: Mapping[str, Any]) -> GraphQLError | None:
    """What is wrong with decoded JSON: too many values, or a text that no database keeps.

    At most `MAX_VARIABLE_VALUES` are looked at, however many there are.
    """
    waiting: list[Any] = []
    held = 0
    value: Any = variables
    while True:
        if isinstance(value, Mapping | list):
            held += len(value)
            if held > MAX_VARIABLE_VALUES:
                return LimitError(
                    f"The variables hold more than {MAX_VARIABLE_VALUES} values, elements of lists "
                    "and fields of objects counted: send fewer of them in one request."
                )
            waiting += value if isinstance(value, list) else value.values()
        elif isinstance(value, str) and not storable(value):
            return GraphQLError(NOT_STORABLE, extensions={"code": "INVALID_INPUT"})
        if not waiting:
            return None
        value = waiting.pop()

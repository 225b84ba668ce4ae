"""Strings that no database keeps, refused wherever a document or its variables hold one.

PostgreSQL has no U+0000 in a text, and a lone surrogate has no bytes in UTF-8. Nothing of ours is
named so, and no resolver has to think of it.
"""

from collections.abc import Mapping
from typing import Any, Final

from graphql import ASTValidationRule, GraphQLError, StringValueNode

from remotegpu_core.texts import storable

_MESSAGE: Final = "Text cannot hold U+0000 or half of a surrogate pair."


class StorableTextRule(ASTValidationRule):
    """Of the strings in a document."""

    def enter_string_value(self, node: StringValueNode, *_: Any) -> None:
        if not storable(node.value):
            self.report_error(GraphQLError(_MESSAGE, node))


def check_variables(variables: Mapping[str, Any]) -> GraphQLError | None:
    """What is wrong with the texts in decoded JSON."""
    waiting: list[Any] = [variables]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if not storable(value):
                return GraphQLError(_MESSAGE, extensions={"code": "INVALID_INPUT"})
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return None

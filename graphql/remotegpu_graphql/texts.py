"""Strings that no database keeps, refused wherever a document or its variables hold one.

PostgreSQL has no U+0000 in a text, and a lone surrogate has no bytes in UTF-8. Nothing of ours is
named so, and no resolver has to think of it.
"""

import math
from typing import Any, Final

from graphql import ASTValidationRule, FloatValueNode, GraphQLError, StringValueNode

from remotegpu_core.texts import storable
from remotegpu_protocol.grammar import shorten

NOT_STORABLE: Final = "Text cannot hold U+0000 or half of a surrogate pair."


class StorableTextRule(ASTValidationRule):
    """Of the strings in a document."""

    def enter_string_value(self, node: StringValueNode, *_: Any) -> None:
        if not storable(node.value):
            self.report_error(GraphQLError(NOT_STORABLE, node))


class FiniteNumberRule(ASTValidationRule):
    """Of the numbers in a document: graphql-core would pass 1e999 on as infinity."""

    def enter_float_value(self, node: FloatValueNode, *_: Any) -> None:
        if not math.isfinite(float(node.value)):
            message = f"A number is less than 1.8e308, got {shorten(node.value)}."
            self.report_error(GraphQLError(message, node))

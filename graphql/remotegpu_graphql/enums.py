"""Core's enums as the graph's, each value described."""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

import strawberry
from strawberry.types.enum import StrawberryEnumDefinition

E = TypeVar("E", bound=type[Enum])


def graph_enum(
    cls: E, description: str, values: Mapping[str, str], *, name: str | None = None
) -> E:
    """Make `cls` an enum of the schema; `values` describes every one of its members by name."""
    missing = set(cls.__members__) ^ set(values)
    if missing:
        raise TypeError(f"{cls.__name__}: describe exactly its members; off by {sorted(missing)}.")
    made = strawberry.enum(cls, name=name, description=description)
    definition: StrawberryEnumDefinition = made.__strawberry_definition__  # type: ignore[attr-defined]  # set by strawberry.enum
    for value in definition.values:
        value.description = values[value.name]
    return made

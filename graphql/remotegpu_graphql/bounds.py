"""How much an input takes: declared where the input is, shown in its description, checked here.

An argument or input field declares its bound as metadata, beside its description:

    name: str = strawberry.field(description="Unique in any case.", metadata=characters(1, 64))
    tags: list[str] = strawberry.field(description="Any.", metadata=items(0, 16) | characters(1, 63))

`declare_bounds` puts them into the descriptions of a schema. `arguments_of` finds the arguments of
a document once, and `Given.beyond` says what one of them gives beyond its bounds before anything
runs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLArgument,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    TypeInfo,
    TypeInfoVisitor,
    ValueNode,
    Visitor,
    get_named_type,
    is_introspection_type,
    value_from_ast_untyped,
    visit,
)
from strawberry.schema.schema_converter import GraphQLCoreConverter

from remotegpu_core.errors import InvalidInput

_ITEMS: Final = "remotegpu.items"
_CHARACTERS: Final = "remotegpu.characters"
_BOUND: Final = "remotegpu.bound"

Input = GraphQLArgument | GraphQLInputField


@dataclass(frozen=True, slots=True)
class Range:
    least: int
    most: int

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most

    def __str__(self) -> str:
        return f"{self.least} to {self.most}" if self.least else f"at most {self.most}"


def items(least: int, most: int) -> dict[str, Range]:
    """Metadata of an input that is a list of `least` to `most` elements."""
    return {_ITEMS: Range(least, most)}


def characters(least: int, most: int) -> dict[str, Range]:
    """Metadata of an input that is a string, or a list of strings, of so many characters."""
    return {_CHARACTERS: Range(least, most)}


def choices(values: type[Enum]) -> dict[str, Range]:
    """Metadata of an input that is a list of values of an enum, each of them at most once."""
    return items(0, len(values))


@dataclass(frozen=True, slots=True)
class Bound:
    """What one input takes. None where nothing is declared."""

    items: Range | None = None
    characters: Range | None = None

    def sentence(self) -> str:
        """As it stands in a description."""
        if self.items is None:
            return "" if self.characters is None else f"{_capital(self.characters)} characters."
        each = "" if self.characters is None else f", each of {self.characters} characters"
        return f"{_capital(self.items)} elements{each}."


NO_BOUND: Final = Bound()


def bound_of(declared: Input) -> Bound:
    """What an argument or input field of the schema declares."""
    found: Bound | None = declared.extensions.get(_BOUND)
    return found or NO_BOUND


def declare_bounds(schema: GraphQLSchema) -> None:
    """Put what Strawberry's definitions declare into the schema, and into its descriptions."""
    for _, declared in inputs_of(schema):
        definition = declared.extensions.get(GraphQLCoreConverter.DEFINITION_BACKREF)
        metadata: Mapping[Any, Any] = getattr(definition, "metadata", None) or {}
        bound = Bound(metadata.get(_ITEMS), metadata.get(_CHARACTERS))
        if bound != NO_BOUND and bound_of(declared) is NO_BOUND:
            declared.extensions[_BOUND] = bound
            declared.description = f"{declared.description or ''} {bound.sentence()}".strip()


def inputs_of(schema: GraphQLSchema) -> Iterator[tuple[str, Input]]:
    """Every argument and input field of a schema, with its place in it."""
    for name, type_ in schema.type_map.items():
        if is_introspection_type(type_):
            continue
        if isinstance(type_, GraphQLInputObjectType):
            for field_name, input_field in type_.fields.items():
                yield f"{name}.{field_name}", input_field
        elif isinstance(type_, GraphQLObjectType | GraphQLInterfaceType):
            for field_name, field in type_.fields.items():
                for argument_name, argument in field.args.items():
                    yield f"{name}.{field_name}({argument_name}:)", argument


@dataclass(frozen=True, slots=True)
class Given:
    """An argument as it stands in a document. `mutation` is the response key of the mutation whose
    own argument it is, None for any other field's."""

    name: str
    declared: GraphQLArgument
    node: ValueNode
    mutation: str | None

    def beyond(self, variables: Mapping[str, Any]) -> InvalidInput | None:
        """The first thing that does not fit its bound."""
        value = value_from_ast_untyped(self.node, dict(variables))
        # A mutation has one argument, and its fields are known by their names within it.
        path = () if self.mutation is not None and self.name == "input" else (self.name,)
        return _beyond(self.declared.type, bound_of(self.declared), value, path)


def arguments_of(schema: GraphQLSchema, document: DocumentNode) -> tuple[Given, ...]:
    """The arguments of a valid document that have a bound or fields with one."""
    type_info = TypeInfo(schema)
    found: list[Given] = []

    class Collect(Visitor):
        def enter_field(self, node: FieldNode, *_: Any) -> None:
            field = type_info.get_field_def()
            if field is None or not node.arguments:
                return
            is_mutation = type_info.get_parent_type() is schema.mutation_type
            key = node.alias.value if node.alias else node.name.value
            for argument in node.arguments:
                declared = field.args[argument.name.value]
                inner = get_named_type(declared.type)
                if bound_of(declared) is not NO_BOUND or isinstance(inner, GraphQLInputObjectType):
                    found.append(
                        Given(
                            argument.name.value,
                            declared,
                            argument.value,
                            key if is_mutation else None,
                        )
                    )

    visit(document, TypeInfoVisitor(type_info, Collect()))
    return tuple(found)


def _beyond(
    type_: GraphQLInputType, bound: Bound, value: Any, path: tuple[str, ...]
) -> InvalidInput | None:
    """Look through a value that is not coerced yet: what does not fit its type is let through, for
    coercion says more about it."""
    if isinstance(type_, GraphQLNonNull):
        type_ = type_.of_type
    if isinstance(type_, GraphQLList):
        # One value stands for a list of it.
        elements = value if isinstance(value, list) else [] if value is None else [value]
        if bound.items is not None and value is not None and len(elements) not in bound.items:
            return InvalidInput(
                f"{_name(path)} takes {bound.items} elements, got {len(elements)}.", field=path
            )
        return _first(
            _beyond(type_.of_type, bound, element, (*path, str(position)))
            for position, element in enumerate(elements)
        )
    if isinstance(type_, GraphQLInputObjectType):
        if not isinstance(value, Mapping):
            return None
        return _first(
            _beyond(field.type, bound_of(field), value[name], (*path, name))
            for name, field in type_.fields.items()
            if name in value
        )
    fits = bound.characters is None or not isinstance(value, str) or len(value) in bound.characters
    if fits:
        return None
    return InvalidInput(
        f"{_name(path)} has {bound.characters} characters, got {len(value)}.", field=path
    )


def _first(found: Iterator[InvalidInput | None]) -> InvalidInput | None:
    return next((error for error in found if error is not None), None)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _capital(range_: Range) -> str:
    text = str(range_)
    return text[0].upper() + text[1:]

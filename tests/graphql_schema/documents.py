"""Hypothesis: subscription documents with everything that a selection may have."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import (
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    Undefined,
    get_named_type,
    is_composite_type,
)
from hypothesis import strategies as st

from remotegpu_graphql.sharing import is_shareable

#: Half of what the limits are with some left, since one fragment may stand twice.
_MAX_ALIASES: Final = 7
_MAX_DIRECTIVES: Final = 10
_MAX_DEPTH: Final = 5
#: Selections of one document, whatever they are; each has some six tokens, one with arguments more.
_MAX_PARTS: Final = 30

Composite = GraphQLObjectType | GraphQLInterfaceType | GraphQLUnionType


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is valid by its making, and variables that fit its declarations."""

    source: str
    variables: dict[str, Any]


@dataclass
class _Budget:
    """What a document may still use of what is limited, and what it has used."""

    schema: GraphQLSchema
    parts: int = 0
    aliases: int = 0
    directives: int = 0
    fragments: list[str] = field(default_factory=list)
    twice: bool = False
    declared: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    #: Arguments of fields without an alias: the same wherever they stand, so that they merge.
    arguments: dict[str, str] = field(default_factory=dict)


@st.composite
def documents(
    draw: st.DrawFn, schema: GraphQLSchema, root: str, type_name: str, arguments: str = ""
) -> Document:
    """A subscription of `root`, whose type is `type_name`."""
    budget = _Budget(schema)
    selection = _selection(draw, _composite(schema.type_map[type_name]), budget, depth=0)
    alias = draw(st.sampled_from(["", "live: "]))
    declared = ", ".join(f"${name}: {type_}" for name, type_ in sorted(budget.declared.items()))
    name = f"S({declared})" if declared else draw(st.sampled_from(["", "S"]))
    source = f"subscription {name} {{ {alias}{root}{arguments} {selection} }}"
    return Document(" ".join([source, *budget.fragments]), budget.values)


def _composite(type_: object) -> Composite:
    assert isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLUnionType)
    return type_


def _selection(draw: st.DrawFn, type_: Composite, budget: _Budget, *, depth: int) -> str:
    wanted = 1 if budget.parts >= _MAX_PARTS else draw(st.integers(1, 4))
    parts = [_part(draw, type_, budget, depth=depth) for _ in range(wanted)]
    return f"{{ {' '.join(parts)} }}"


def _part(draw: st.DrawFn, type_: Composite, budget: _Budget, *, depth: int) -> str:
    budget.parts += 1
    kinds = ["typename"]
    if budget.parts < _MAX_PARTS:
        if not isinstance(type_, GraphQLUnionType):
            kinds += ["field", "field", "field"]
        if depth < _MAX_DEPTH:
            kinds += ["inline", "spread"]
    match draw(st.sampled_from(kinds)):
        case "typename":
            return f"{_alias(draw, budget)}__typename{_directive(draw, budget)}"
        case "inline":
            inner = draw(st.sampled_from([None, *_conditions(type_, budget)]))
            condition = "" if inner is None else f" on {inner.name}"
            directive = _directive(draw, budget)
            selection = _selection(draw, inner or type_, budget, depth=depth + 1)
            return f"...{condition}{directive} {selection}"
        case "spread":
            name = f"F{len(budget.fragments)}"
            # Its place is taken first, so that those within it get other names.
            budget.fragments.append("")
            inner = draw(st.sampled_from(_conditions(type_, budget)))
            body = _selection(draw, inner, budget, depth=depth + 1)
            budget.fragments[int(name[1:])] = f"fragment {name} on {inner.name} {body}"
            # Spread twice its fields merge with themselves.
            twice = not budget.twice and draw(st.booleans())
            budget.twice |= twice
            return f"...{name}{_directive(draw, budget)}{f' ...{name}' if twice else ''}"
        case _:
            assert not isinstance(type_, GraphQLUnionType)
            return _field(draw, type_, budget, depth=depth)


def _conditions(type_: Composite, budget: _Budget) -> list[Composite]:
    """Types that a fragment within `type_` may be on: itself, what it is, and what it may be."""
    if isinstance(type_, GraphQLObjectType):
        return [type_, *type_.interfaces]
    return [type_, *budget.schema.get_possible_types(type_)]


def _field(
    draw: st.DrawFn,
    type_: GraphQLObjectType | GraphQLInterfaceType,
    budget: _Budget,
    *,
    depth: int,
) -> str:
    # Deep below, only what needs no selection; nowhere what a viewer's rights decide about.
    names = [
        name
        for name, found in type_.fields.items()
        if not is_composite_type(inner := get_named_type(found.type))
        or (depth < _MAX_DEPTH and _is_shared(inner))
    ]
    if not names:
        return "__typename"
    name = draw(st.sampled_from(sorted(names)))
    definition = type_.fields[name]
    alias = _alias(draw, budget)
    arguments = budget.arguments.get(name) if not alias else None
    if arguments is None:
        arguments = _arguments(draw, definition.args, budget)
        if not alias:
            budget.arguments[name] = arguments
    directive = _directive(draw, budget)
    inner = get_named_type(definition.type)
    below = ""
    if is_composite_type(inner):
        below = " " + _selection(draw, _composite(inner), budget, depth=depth + 1)
    return f"{alias}{name}{arguments}{directive}{below}"


def _is_shared(type_: Any) -> bool:
    members = type_.types if isinstance(type_, GraphQLUnionType) else (type_,)
    return all(is_shareable(member.name) for member in members)


def _arguments(draw: st.DrawFn, declared: dict[str, Any], budget: _Budget) -> str:
    given = []
    for name, argument in declared.items():
        # What is required and has no default of its own cannot be left out.
        required = isinstance(argument.type, GraphQLNonNull) and argument.default_value is Undefined
        how = draw(st.sampled_from(["literal", "variable", *([] if required else ["absent"])]))
        if how == "literal":
            given.append(f"{name}: {_literal(draw(_values(argument.type)), argument.type)}")
        elif how == "variable":
            given.append(f"{name}: ${_variable(draw, argument.type, budget)}")
    return f"({', '.join(given)})" if given else ""


def _variable(draw: st.DrawFn, type_: Any, budget: _Budget) -> str:
    """A new variable for that place: with or without default, given, null or left out."""
    name = f"v{len(budget.declared)}"
    default = draw(st.booleans())
    declared = str(type_)
    if default:
        # With a default, a nullable variable may stand in a place that takes no null.
        bare = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
        declared = draw(st.sampled_from([str(bare), f"{bare}!"]))
        value = draw(_values(GraphQLNonNull(bare)))
        budget.declared[name] = f"{declared} = {_literal(value, bare)}"
    else:
        budget.declared[name] = declared
    may_be_absent = default or not declared.endswith("!")
    how = draw(st.sampled_from(["given", "absent", "null"]))
    if how == "null" and not declared.endswith("!"):
        budget.values[name] = None
    elif how == "given" or not may_be_absent:
        bare = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
        budget.values[name] = draw(_values(GraphQLNonNull(bare)))
    return name


def _directive(draw: st.DrawFn, budget: _Budget) -> str:
    if budget.directives >= _MAX_DIRECTIVES or draw(st.integers(0, 4)):
        return ""
    budget.directives += 1
    name = draw(st.sampled_from(["include", "skip"]))
    value = draw(st.sampled_from(["true", "false", "$"]))
    if value == "$":
        condition = GraphQLNonNull(GraphQLBoolean)
        value += _variable(draw, condition, budget)
    return f" @{name}(if: {value})"


def _alias(draw: st.DrawFn, budget: _Budget) -> str:
    if budget.aliases >= _MAX_ALIASES or draw(st.integers(0, 3)):
        return ""
    budget.aliases += 1
    return f"a{budget.aliases}: "


def _values(type_: Any) -> st.SearchStrategy[Any]:
    """Values of an input type as variables have them."""
    if not isinstance(type_, GraphQLNonNull):
        return st.none() | _values(GraphQLNonNull(type_))
    inner = type_.of_type
    if isinstance(inner, GraphQLList):
        return st.lists(_values(inner.of_type), max_size=3)
    if isinstance(inner, GraphQLEnumType):
        return st.sampled_from(sorted(inner.values))
    if isinstance(inner, GraphQLInputObjectType):
        required = {
            name: _values(found.type)
            for name, found in inner.fields.items()
            if isinstance(found.type, GraphQLNonNull) and found.default_value is Undefined
        }
        optional = {
            name: _values(found.type)
            for name, found in inner.fields.items()
            if name not in required
        }
        return st.fixed_dictionaries(required, optional=optional)
    assert isinstance(inner, GraphQLScalarType)
    scalars: dict[str, st.SearchStrategy[Any]] = {
        "Int": st.integers(-(2**31), 2**31 - 1),
        "Float": st.floats(-1e6, 1e6),
        "Boolean": st.booleans(),
        "String": st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5),
        "ID": st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=5),
    }
    return scalars[inner.name]


def _literal(value: Any, type_: Any) -> str:
    """The value as it stands in a document."""
    inner = type_.of_type if isinstance(type_, GraphQLNonNull) else type_
    if value is None:
        return "null"
    if isinstance(inner, GraphQLList):
        return f"[{', '.join(_literal(item, inner.of_type) for item in value)}]"
    if isinstance(inner, GraphQLEnumType):
        return str(value)
    if isinstance(inner, GraphQLInputObjectType):
        items = (
            f"{name}: {_literal(item, inner.fields[name].type)}" for name, item in value.items()
        )
        return f"{{{', '.join(items)}}}"
    return json.dumps(value)

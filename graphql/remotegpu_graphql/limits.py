"""Bounds of a document, checked before anything runs."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLError,
    GraphQLList,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    is_non_null_type,
)

from remotegpu_core.paging import DEFAULT_PAGE, MAX_PAGE

MAX_TOKENS: Final = 1000
MAX_DEPTH: Final = 12
MAX_ALIASES: Final = 15
MAX_DIRECTIVES: Final = 20
#: Objects that one operation may ask for. The contract's largest document asks for 7,200 with
#: pages of 100.
MAX_COST: Final = 10_000

#: Objects that a list without a page size is taken to have, by type and field.
LIST_SIZES: Final[Mapping[str, int]] = {
    "Machine.gpus": 8,
    "MachineMetrics.gpus": 8,
    "GpuMetrics.processes": 4,
    "Machine.labels": 4,
    "Machine.addresses": 4,
    "MachineSpecs.disks": 4,
    "Gpu.migDevices": 4,
    "Workspace.members": 10,
    "AuditEvent.details": 4,
}
_OTHER_LISTS: Final = 4


class LimitError(GraphQLError):
    """A document beyond a bound; the message says which and by how much."""

    def __init__(self, message: str) -> None:
        super().__init__(message, extensions={"code": "LIMIT_EXCEEDED"})


def check_document(document: DocumentNode, *, introspection_is_free: bool) -> None:
    """Check what does not depend on variables.

    Fragments count wherever they are spread. Cycles of fragments are found by validation, which
    runs first.

    Raises:
        LimitError: too deep, or too many aliases or directives.
    """
    fragments = _fragments(document)
    for definition in document.definitions:
        if not isinstance(definition, OperationDefinitionNode):
            continue
        depth = _depth(definition.selection_set, fragments, introspection_is_free)
        if depth > MAX_DEPTH:
            raise LimitError(
                f"The operation is {depth} fields deep, at most {MAX_DEPTH} are allowed."
            )
        aliases = directives = 0
        for node in _walk(definition, fragments):
            aliases += isinstance(node, FieldNode) and node.alias is not None
            directives += len(getattr(node, "directives", None) or ())
            if aliases > MAX_ALIASES:
                raise LimitError(f"The operation has more than {MAX_ALIASES} aliases.")
            if directives > MAX_DIRECTIVES:
                raise LimitError(f"The operation has more than {MAX_DIRECTIVES} directives.")


def cost_of(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any],
) -> int:
    """Objects that the operation may make, by its page sizes and the declared list sizes."""
    root = schema.get_root_type(operation.operation)
    if root is None:
        return 0
    return _cost(schema, root, operation.selection_set, _fragments(document), variables, None)


def _cost(
    schema: GraphQLSchema,
    parent: GraphQLCompositeType,
    selections: SelectionSetNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    variables: Mapping[str, Any],
    page: int | None,
) -> int:
    total = 0
    for selection in selections.selections:
        match selection:
            case FieldNode():
                name = selection.name.value
                # A union has no fields of its own but __typename.
                field = getattr(parent, "fields", {}).get(name)
                if field is None or selection.selection_set is None:
                    continue
                inner_type = get_named_type(field.type)
                if not is_composite_type(inner_type):
                    continue
                inner_page = _page_size(selection, variables) if "first" in field.args else page
                times = 1
                if _is_list(field.type):
                    # A connection's edges and nodes are as many as its page.
                    times = (
                        page
                        if page is not None and name in {"edges", "nodes"}
                        else _list_size(parent.name, name, selection, variables)
                    )
                    inner_page = None
                below = _cost(
                    schema,
                    inner_type,
                    selection.selection_set,
                    fragments,
                    variables,
                    inner_page,
                )
                # The connection and its page information are no objects of anybody's.
                own = 0 if "first" in field.args or name in {"edges", "pageInfo"} else 1
                total += times * (own + below)
            case InlineFragmentNode() | FragmentSpreadNode():
                inner: InlineFragmentNode | FragmentDefinitionNode | None = (
                    selection
                    if isinstance(selection, InlineFragmentNode)
                    else fragments.get(selection.name.value)
                )
                if inner is None:
                    continue
                condition = inner.type_condition
                narrowed: Any = schema.get_type(condition.name.value) if condition else parent
                if narrowed is not None and is_composite_type(narrowed):
                    total += _cost(
                        schema, narrowed, inner.selection_set, fragments, variables, page
                    )
            case _:
                continue
    return total


def _page_size(field: FieldNode, variables: Mapping[str, Any]) -> int:
    for argument in field.arguments or ():
        if argument.name.value not in {"first", "last"}:
            continue
        value = _integer(argument.value, variables)
        if value is not None:
            return max(0, min(value, MAX_PAGE))
    return DEFAULT_PAGE


def _list_size(type_name: str, name: str, field: FieldNode, variables: Mapping[str, Any]) -> int:
    for argument in field.arguments or ():
        # A list of ids asks for as many objects.
        if argument.name.value in {"ids", "machineIds"}:
            value = argument.value
            if isinstance(value, VariableNode):
                given = variables.get(value.name.value)
                return len(given) if isinstance(given, list) else 1
            return len(getattr(value, "values", ())) or 1
    return LIST_SIZES.get(f"{type_name}.{name}", _OTHER_LISTS)


def _integer(value: Node, variables: Mapping[str, Any]) -> int | None:
    if isinstance(value, IntValueNode):
        # Longer than any page: the value is refused later, for being out of range.
        return int(value.value) if len(value.value) < 10 else MAX_PAGE
    if isinstance(value, VariableNode):
        given = variables.get(value.name.value)
        if isinstance(given, int) and not isinstance(given, bool):
            return given
    return None


def _is_list(type_: GraphQLOutputType) -> bool:
    inner = type_.of_type if is_non_null_type(type_) else type_
    return isinstance(inner, GraphQLList)


def _fragments(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    return {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }


def _depth(
    selections: SelectionSetNode | None,
    fragments: Mapping[str, FragmentDefinitionNode],
    introspection_is_free: bool,
) -> int:
    deepest = 0
    for selection in selections.selections if selections else ():
        match selection:
            case FieldNode():
                if introspection_is_free and selection.name.value in {"__schema", "__type"}:
                    continue
                below = _depth(selection.selection_set, fragments, introspection_is_free)
                deepest = max(deepest, 1 + below)
            case InlineFragmentNode():
                deepest = max(
                    deepest, _depth(selection.selection_set, fragments, introspection_is_free)
                )
            case FragmentSpreadNode():
                fragment = fragments.get(selection.name.value)
                if fragment is not None:
                    deepest = max(
                        deepest,
                        _depth(fragment.selection_set, fragments, introspection_is_free),
                    )
            case _:
                continue
    return deepest


def _walk(node: Node, fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[Node]:
    """The operation and every field and fragment in it, as often as they are spread."""
    yield node
    if isinstance(node, FragmentSpreadNode):
        fragment = fragments.get(node.name.value)
        if fragment is not None:
            yield from _walk(fragment, fragments)
        return
    selections: SelectionSetNode | None = getattr(node, "selection_set", None)
    for selection in selections.selections if selections else ():
        yield from _walk(selection, fragments)

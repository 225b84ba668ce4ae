"""Bounds of a document, checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    ListValueNode,
    Node,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    is_non_null_type,
    value_from_ast_untyped,
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
    "Allocation.gpus": 8,
    "Allocation.pendingReasons": 2,
    "AllocationPlan.gpus": 8,
    "AllocationPlan.reasons": 2,
    "AllocationReceipt.items": 16,
    "Operation.steps": 4,
    "Allocation.mounts": 4,
    "Dataset.grants": 10,
}
_OTHER_LISTS: Final = 4
#: Fields whose depth does not count for those who are signed in.
_INTROSPECTION: Final = frozenset({"__schema", "__type"})


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
    measure = _Measure(_fragments(document), introspection_is_free)
    for definition in document.definitions:
        if not isinstance(definition, OperationDefinitionNode):
            continue
        size = measure.of(definition.selection_set)
        if size.depth > MAX_DEPTH:
            raise LimitError(
                f"The operation is {size.depth} fields deep, at most {MAX_DEPTH} are allowed."
            )
        if size.aliases > MAX_ALIASES:
            raise LimitError(
                f"The operation has {size.aliases} aliases, at most {MAX_ALIASES} are allowed."
            )
        directives = size.directives + len(definition.directives or ())
        if directives > MAX_DIRECTIVES:
            raise LimitError(
                f"The operation has {directives} directives, at most {MAX_DIRECTIVES} are allowed."
            )


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a selection set with everything that is spread in it."""

    depth: int = 0
    aliases: int = 0
    directives: int = 0

    def beside(self, other: "_Size") -> "_Size":
        return _Size(
            max(self.depth, other.depth),
            self.aliases + other.aliases,
            self.directives + other.directives,
        )


class _Measure:
    """Sizes of selection sets, each fragment looked at once however often it is spread.

    A document of a hundred fragments can spread the last of them 2^100 times.
    """

    def __init__(
        self, fragments: Mapping[str, FragmentDefinitionNode], introspection_is_free: bool
    ) -> None:
        self._fragments = fragments
        self._introspection_is_free = introspection_is_free
        self._known: dict[str, _Size] = {}

    def of(self, selections: SelectionSetNode | None) -> _Size:
        total = _Size()
        for selection in selections.selections if selections else ():
            total = total.beside(self._of_selection(selection))
        return total

    def _of_selection(self, selection: SelectionNode) -> _Size:
        own = len(selection.directives or ())
        match selection:
            case FieldNode():
                below = self.of(selection.selection_set)
                is_free = self._introspection_is_free and selection.name.value in _INTROSPECTION
                return _Size(
                    0 if is_free else 1 + below.depth,
                    below.aliases + (selection.alias is not None),
                    below.directives + own,
                )
            case InlineFragmentNode():
                return self.of(selection.selection_set).beside(_Size(directives=own))
            case FragmentSpreadNode():
                return self._of_fragment(selection.name.value).beside(_Size(directives=own))
            case _:
                return _Size()

    def _of_fragment(self, name: str) -> _Size:
        known = self._known.get(name)
        if known is None:
            fragment = self._fragments[name]
            own = _Size(directives=len(fragment.directives or ()))
            known = self._known[name] = self.of(fragment.selection_set).beside(own)
        return known


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
    count = _Cost(schema, _fragments(document), with_defaults(operation, variables))
    return count.of(root, operation.selection_set, None)


def with_defaults(
    operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The variables that were given, and the defaults of the others."""
    defaults = {
        definition.variable.name.value: value_from_ast_untyped(definition.default_value)
        for definition in operation.variable_definitions or ()
        if definition.default_value is not None
    }
    return {**defaults, **variables} if defaults else variables


class _Cost:
    """Objects that selections ask for, each fragment counted once for each page size around it."""

    def __init__(
        self,
        schema: GraphQLSchema,
        fragments: Mapping[str, FragmentDefinitionNode],
        variables: Mapping[str, Any],
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._variables = variables
        self._known: dict[tuple[str, int | None], int] = {}

    def of(
        self, parent: GraphQLCompositeType, selections: SelectionSetNode, page: int | None
    ) -> int:
        """`page` is the size of the connection that the selections stand directly in."""
        total = 0
        for selection in selections.selections:
            match selection:
                case FieldNode():
                    total += self._of_field(parent, selection, page)
                case InlineFragmentNode():
                    total += self._of_part(parent, selection, page)
                case FragmentSpreadNode():
                    total += self._of_fragment(parent, selection.name.value, page)
                case _:
                    continue
        return total

    def _of_field(self, parent: GraphQLCompositeType, node: FieldNode, page: int | None) -> int:
        name = node.name.value
        # A union has no fields of its own but __typename.
        field = getattr(parent, "fields", {}).get(name)
        if field is None or node.selection_set is None:
            return 0
        inner_type = get_named_type(field.type)
        if not is_composite_type(inner_type):
            return 0
        is_connection = "first" in field.args
        inner_page = _page_size(node, self._variables) if is_connection else page
        times = 1
        if _is_list(field.type):
            # A connection's edges and nodes are as many as its page.
            times = (
                page
                if page is not None and name in {"edges", "nodes"}
                else _list_size(parent.name, name, node, self._variables)
            )
            inner_page = None
        # The connection and its page information are no objects of anybody's.
        own = 0 if is_connection or name in {"edges", "pageInfo"} else 1
        return times * (own + self.of(inner_type, node.selection_set, inner_page))

    def _of_part(
        self,
        parent: GraphQLCompositeType,
        node: InlineFragmentNode | FragmentDefinitionNode,
        page: int | None,
    ) -> int:
        condition = node.type_condition
        narrowed = self._schema.get_type(condition.name.value) if condition else parent
        if narrowed is None or not is_composite_type(narrowed):
            return 0
        return self.of(narrowed, node.selection_set, page)

    def _of_fragment(self, parent: GraphQLCompositeType, name: str, page: int | None) -> int:
        known = self._known.get((name, page))
        if known is None:
            known = self._of_part(parent, self._fragments[name], page)
            self._known[name, page] = known
        return known


def _page_size(field: FieldNode, variables: Mapping[str, Any]) -> int:
    sizes = [
        value
        for argument in field.arguments or ()
        if argument.name.value in {"first", "last"}
        and (value := _integer(argument.value, variables)) is not None
    ]
    return max(0, min(max(sizes, default=DEFAULT_PAGE), MAX_PAGE))


def _list_size(type_name: str, name: str, field: FieldNode, variables: Mapping[str, Any]) -> int:
    for argument in field.arguments or ():
        # A list of ids asks for as many objects.
        if argument.name.value == "ids":
            value = argument.value
            if isinstance(value, VariableNode):
                given = variables.get(value.name.value)
                return len(given) if isinstance(given, list) else 1
            return len(value.values) if isinstance(value, ListValueNode) else 1
    return LIST_SIZES.get(f"{type_name}.{name}", _OTHER_LISTS)


def _integer(value: Node, variables: Mapping[str, Any]) -> int | None:
    if isinstance(value, IntValueNode):
        # Longer than any page: the value is refused later, for being out of range.
        return int(value.value) if len(value.value) < 10 else MAX_PAGE
    if isinstance(value, VariableNode):
        given = variables.get(value.name.value)
        if isinstance(given, bool):
            return None
        # JSON has one kind of number, and an Int takes 100.0 too.
        if isinstance(given, int) or (isinstance(given, float) and given.is_integer()):
            return int(given)
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

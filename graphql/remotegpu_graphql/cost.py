"""What an operation costs: the objects that it may make."""

from collections.abc import Mapping
from typing import Any, Final

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLCompositeType,
    GraphQLList,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    is_composite_type,
    is_non_null_type,
    value_from_ast_untyped,
)

from remotegpu_core.paging import DEFAULT_PAGE, MAX_PAGE
from remotegpu_graphql.fragments import Fragments, fragments_of

#: Objects that one operation may ask for. The contract's largest document asks for 7,200 with
#: pages of 100.
MAX_COST: Final = 10_000

#: Of `totalCount`, which counts a whole list in the database.
COUNT_COST: Final = 100

#: Objects that a list without a page size is taken to have, by type and field.
LIST_SIZES: Final[Mapping[str, int]] = {
    "Query.gpuMemoryByUser": 100,
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
    # The schema's own: all its types, and what one has on average.
    "__Schema.types": 300,
    "__Schema.directives": 8,
    "__Type.fields": 3,
    "__Type.inputFields": 1,
    "__Type.enumValues": 1,
    "__Type.interfaces": 1,
    "__Type.possibleTypes": 1,
    "__Field.args": 1,
    "__Directive.args": 2,
}
_OTHER_LISTS: Final = 4


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
    count = _Cost(schema, fragments_of(document), with_defaults(operation, variables))
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
        fragments: Fragments,
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
        field = self._schema.get_field(parent, name)
        if field is None:
            return 0
        if node.selection_set is None:
            return COUNT_COST if name == "totalCount" else 0
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
        # A connection and its page information are no objects, nor are wrappers of types.
        own = 0 if is_connection or name in {"edges", "pageInfo", "ofType"} else 1
        asked = times * (own + self.of(inner_type, node.selection_set, inner_page))
        return asked + _filter_size(node, self._variables)

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


def _filter_size(field: FieldNode, variables: Mapping[str, Any]) -> int:
    """Values in the lists of a filter: the database looks for each."""
    for argument in field.arguments or ():
        if argument.name.value == "filter":
            given = value_from_ast_untyped(argument.value, dict(variables))
            if isinstance(given, dict):
                return sum(len(value) for value in given.values() if isinstance(value, list))
    return 0


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

"""What a subscription document shares: its root field's streams, and whether its bytes may go to
more than one viewer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    InlineFragmentNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    TypeInfo,
    TypeInfoVisitor,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    visit,
)
from graphql.execution.values import get_argument_values, get_variable_values
from strawberry.schema.schema_converter import GraphQLCoreConverter
from strawberry.types.field import StrawberryField

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.permissions import Access, access_of, check_access
from remotegpu_graphql.sharing import Shared, Stream, is_shareable, shared_field
from remotegpu_graphql.variables import unfit_variables

_SUBSCRIPTION = "Subscription"


class BadVariables(Exception):
    """The variables do not fit the document."""

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


@dataclass(frozen=True, slots=True)
class SubscriptionShape:
    """A subscription operation, looked at once.

    `shared` is its root field's plan, if it has one; `bytes_are_shared` whether its results may
    be given to several viewers; `routing_variables` those that only choose streams.
    """

    field_name: str
    access: Access
    shared: Shared | None
    bytes_are_shared: bool
    routing_variables: frozenset[str]
    _schema: GraphQLSchema
    _operation: OperationDefinitionNode
    _field: GraphQLField
    _node: FieldNode

    async def plan(
        self, plane: ControlPlane, actor: Actor, variables: Mapping[str, Any]
    ) -> list[Stream]:
        """Check that the viewer may watch, now, and give the streams that they watch.

        A field without a plan has no streams; only the permission is checked.

        Raises:
            BadVariables: they do not fit the document.
            RemoteGPUError: the viewer may not.
        """
        check_access(actor, self.access, Scope.READ)
        if self.shared is None:
            return []
        return await self.shared.plan(plane, actor, self._arguments(variables))

    def key_variables(self, variables: Mapping[str, Any]) -> bytes:
        """The variables that results depend on, in one spelling."""
        declared = {
            definition.variable.name.value
            for definition in self._operation.variable_definitions or ()
        }
        kept = {
            name: value
            for name, value in variables.items()
            if name in declared and name not in self.routing_variables
        }
        return msgspec.json.encode(kept, order="deterministic")

    def _arguments(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        coerced = get_variable_values(
            self._schema,
            self._operation.variable_definitions or (),
            dict(variables),
            max_errors=5,
        )
        if isinstance(coerced, list):
            unfit = unfit_variables(self._schema, self._operation, variables)
            raise BadVariables(unfit or coerced)
        try:
            return get_argument_values(self._field, self._node, coerced)
        except GraphQLError as error:
            raise BadVariables([error]) from None


def shape_of(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode
) -> SubscriptionShape:
    """Look at a valid subscription operation."""
    fragments = {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }
    node, is_direct = _root_field(operation.selection_set, fragments)
    root = schema.subscription_type
    if root is None or node is None:
        raise LookupError("a valid subscription has a root field")
    field = root.fields[node.name.value]
    definition: StrawberryField = field.extensions[GraphQLCoreConverter.DEFINITION_BACKREF]
    access = access_of(definition)
    if access is None:
        raise LookupError(f"Subscription.{node.name.value} declares no permission")
    shared = shared_field(node.name.value)
    routed = _routing_variables(operation, fragments, node, shared) if shared else frozenset()
    return SubscriptionShape(
        field_name=node.name.value,
        access=access,
        shared=shared,
        bytes_are_shared=shared is not None
        and is_direct
        and _only_shareable(schema, document, operation, fragments),
        routing_variables=routed,
        _schema=schema,
        _operation=operation,
        _field=field,
        _node=node,
    )


def _root_field(
    selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> tuple[FieldNode | None, bool]:
    """The one root field, and whether it stands there plainly, without directive or fragment."""
    for selection in selections.selections:
        match selection:
            case FieldNode():
                return selection, not selection.directives
            case InlineFragmentNode():
                found, _ = _root_field(selection.selection_set, fragments)
            case FragmentSpreadNode():
                found, _ = _root_field(fragments[selection.name.value].selection_set, fragments)
            case _:
                continue
        if found is not None:
            return found, False
    return None, False


def _routing_variables(
    operation: OperationDefinitionNode,
    fragments: Mapping[str, FragmentDefinitionNode],
    node: FieldNode,
    shared: Shared,
) -> frozenset[str]:
    """Variables that are the whole value of a routing argument and appear nowhere else in what
    the operation can reach; another operation's of the same name are others."""
    uses: Counter[str] = Counter()

    class Count(Visitor):
        def enter_variable(self, variable: VariableNode, _key: Any, parent: Any, *_: Any) -> None:
            if not isinstance(parent, VariableDefinitionNode):
                uses[variable.name.value] += 1

    for part in (operation, *fragments.values()):
        visit(part, Count())
    return frozenset(
        argument.value.name.value
        for argument in node.arguments or ()
        if argument.name.value in shared.routing
        and isinstance(argument.value, VariableNode)
        and uses[argument.value.name.value] == 1
    )


def _only_shareable(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    fragments: Mapping[str, FragmentDefinitionNode],
) -> bool:
    """Whether every field that the operation can reach promises not to depend on the viewer."""
    type_info = TypeInfo(schema)
    reached: set[tuple[str, str]] = set()
    spread: set[str] = set()

    class Reach(Visitor):
        def enter_field(self, node: FieldNode, *_: Any) -> None:
            parent = type_info.get_parent_type()
            if parent is not None:
                reached.add((parent.name, node.name.value))

        def enter_fragment_spread(self, node: FragmentSpreadNode, *_: Any) -> None:
            spread.add(node.name.value)

    looked: set[str] = set()
    todo: list[Node] = [operation]
    while todo:
        visit(todo.pop(), TypeInfoVisitor(type_info, Reach()))
        for name in spread - looked:
            looked.add(name)
            todo.append(fragments[name])
    return all(name == _SUBSCRIPTION or is_shareable(name, field) for name, field in reached)

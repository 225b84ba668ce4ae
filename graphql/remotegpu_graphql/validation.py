"""graphql-core's rules of validation, in less than half the time that its `validate` takes.

It visits documents in a way that could also change them, visits every name, and remembers what it
found by hashes of whole subtrees. Rules need none of that. The errors are the same.
"""

from collections.abc import Callable, Collection
from typing import Any, Final

from graphql import (
    ASTValidationRule,
    DocumentNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLSchema,
    KnownTypeNamesRule,
    Node,
    OperationDefinitionNode,
    TypeInfo,
    ValidationContext,
    Visitor,
)
from graphql.language.ast import QUERY_DOCUMENT_KEYS
from graphql.pyutils import RefMap
from graphql.validation import validation_context
from graphql.validation.rules import overlapping_fields_can_be_merged
from graphql.validation.validate import ValidationAbortedError
from graphql.validation.validation_context import VariableUsage, VariableUsageVisitor

# graphql-core's own budgets for comparisons, a hundredth of what it gives itself: they bound what
# the pairs of a document do not.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 5_000
validation_context.MAX_FRAGMENT_WORK = 5_000

#: What of a node is visited, by its kind; of other kinds nothing.
_CHILDREN: Final = {
    kind: tuple(key for key in keys if key not in {"name", "alias", "description"})
    for kind, keys in QUERY_DOCUMENT_KEYS.items()
}

#: Errors that suggest names. Comparing one name with all types takes milliseconds: for those there
#: are no suggestions.
_SUGGESTED: Final = 2

_Definition = OperationDefinitionNode | FragmentDefinitionNode
_Call = tuple[int, Callable[..., Any]]


class TooCostly(Exception):
    """Comparing fields and fragments used up the budget."""


class _Enough(Exception):
    """As many errors as are told."""


def validate(
    schema: GraphQLSchema,
    document: DocumentNode,
    rules: Collection[type[ASTValidationRule]],
    *,
    max_errors: int,
) -> list[GraphQLError]:
    """The first errors, `max_errors` at most.

    Raises:
        TooCostly: it would take too long.
    """
    errors: list[GraphQLError] = []

    def on_error(error: GraphQLError) -> None:
        errors.append(error)
        if len(errors) >= max_errors:
            raise _Enough

    type_info = TypeInfo(schema)
    context = _Context(schema, document, type_info, on_error)
    context.errors = errors
    quiet = _Context(schema, document, type_info, on_error, True)
    visitors: list[Visitor] = [
        rule(quiet if rule is KnownTypeNamesRule else context) for rule in rules
    ]
    try:
        _Walk(type_info, visitors).visit(document)
    except _Enough:
        pass
    except ValidationAbortedError:
        raise TooCostly from None
    return errors


class _Walk:
    """Takes visitors, which change nothing and do not end the walk, over a tree."""

    def __init__(self, type_info: TypeInfo, visitors: list[Visitor]) -> None:
        self._type_info = type_info
        self._visitors = visitors
        self._ancestors: list[Any] = []
        #: By kind: what is called on entering, and on leaving.
        self._calls: dict[str, tuple[tuple[_Call, ...], tuple[_Call, ...]]] = {}
        #: Visitors that skip what is below a node.
        self._skipping: dict[int, Node] = {}

    def visit(self, node: Node, key: Any = None, parent: Any = None) -> None:
        ancestors, skipping, kind = self._ancestors, self._skipping, node.kind
        entering, leaving = self._calls.get(kind) or self._find(kind)
        self._type_info.enter(node)
        for index, enter in entering:
            # SKIP is all that a rule answers.
            if index not in skipping and enter(node, key, parent, (), ancestors) is not None:
                skipping[index] = node
        if parent is not None:
            ancestors.append(parent)
        for name in _CHILDREN.get(kind, ()):
            child = getattr(node, name, None)
            if isinstance(child, tuple):
                ancestors.append(node)
                for position, element in enumerate(child):
                    self.visit(element, position, child)
                ancestors.pop()
            elif child is not None:
                self.visit(child, name, node)
        if parent is not None:
            ancestors.pop()
        for index, leave in leaving:
            if index not in skipping:
                leave(node, key, parent, (), ancestors)
        if skipping:
            for index in [index for index, by in skipping.items() if by is node]:
                del skipping[index]
        self._type_info.leave(node)

    def _find(self, kind: str) -> tuple[tuple[_Call, ...], tuple[_Call, ...]]:
        entering: list[_Call] = []
        leaving: list[_Call] = []
        for index, visitor in enumerate(self._visitors):
            enter, leave = visitor.get_enter_leave_for_kind(kind)
            if enter is not None:
                entering.append((index, enter))
            if leave is not None:
                leaving.append((index, leave))
        found = self._calls[kind] = (tuple(entering), tuple(leaving))
        return found


class _Context(ValidationContext):
    """Remembers by identity, and suggests names for the first errors only."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.errors: list[GraphQLError] = []
        self._fragment_spreads = RefMap()  # type: ignore[assignment]  # has what is used of a dict
        self._variable_usages = RefMap()  # type: ignore[assignment]  # as above
        self._recursive_variable_usages = RefMap()  # type: ignore[assignment]  # as above

    @property
    def hide_suggestions(self) -> bool:
        return self._hide_suggestions or len(self.errors) >= _SUGGESTED

    def get_variable_usages(self, node: _Definition) -> list[VariableUsage]:
        usages = self._variable_usages.get(node)
        if usages is None:
            of_fragment = node if isinstance(node, FragmentDefinitionNode) else None
            visitor = VariableUsageVisitor(self._type_info, of_fragment)
            _Walk(self._type_info, [visitor]).visit(node)
            usages = self._variable_usages[node] = visitor.usages
        return usages

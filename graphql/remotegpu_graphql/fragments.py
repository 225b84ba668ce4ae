"""Fragments of a document that is not validated yet: which spread which."""

from collections.abc import Iterator, Mapping, Sequence

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

Fragments = Mapping[str, FragmentDefinitionNode]
Definition = OperationDefinitionNode | FragmentDefinitionNode


class FragmentCycle(Exception):
    """A fragment spreads itself, directly or through others."""


def fragments_of(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    return {
        definition.name.value: definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode)
    }


def innermost_first(fragments: Fragments) -> list[str]:
    """The fragments' names, each after those that it spreads.

    Raises:
        FragmentCycle: there is no such order.
    """
    order: list[str] = []
    done: set[str] = set()
    open_: set[str] = set()
    for root in fragments:
        if root in done:
            continue
        # No recursion: a chain of fragments is as long as the document allows.
        path = [(root, _spreads(fragments[root].selection_set))]
        open_.add(root)
        while path:
            name, spreads = path[-1]
            inner = next((spread for spread in spreads if spread not in done), None)
            if inner is None:
                path.pop()
                open_.discard(name)
                done.add(name)
                order.append(name)
            elif inner in open_:
                raise FragmentCycle(inner)
            elif inner in fragments:
                path.append((inner, _spreads(fragments[inner].selection_set)))
                open_.add(inner)
    return order


def unreached(
    document: DocumentNode, operations: Sequence[OperationDefinitionNode], fragments: Fragments
) -> list[FragmentDefinitionNode]:
    """Fragments that no operation spreads, and those that another one of the same name hides."""
    reached: set[int] = set()
    todo: list[Definition] = [*operations]
    while todo:
        for name in _spreads(todo.pop().selection_set):
            fragment = fragments.get(name)
            if fragment is not None and id(fragment) not in reached:
                reached.add(id(fragment))
                todo.append(fragment)
    return [
        definition
        for definition in document.definitions
        if isinstance(definition, FragmentDefinitionNode) and id(definition) not in reached
    ]


def _spreads(selections: SelectionSetNode) -> Iterator[str]:
    """Names that are spread in a selection set, at any depth of its fields."""
    todo = [selections]
    while todo:
        for selection in todo.pop().selections:
            match selection:
                case FragmentSpreadNode():
                    yield selection.name.value
                case FieldNode() | InlineFragmentNode() if selection.selection_set is not None:
                    todo.append(selection.selection_set)
                case _:
                    pass

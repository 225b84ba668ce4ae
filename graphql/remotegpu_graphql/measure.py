"""How large a document is, fragments in the place of their spreads.

Nothing here takes longer than the document is long and the bounds allow: a document of fifty
fragments can spread the last of them 2^50 times.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from graphql import (
    ArgumentNode,
    DirectiveNode,
    FieldNode,
    FloatValueNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    Node,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

from remotegpu_graphql.fragments import Definition, Fragments

#: Fields whose depth does not count. Only those who are signed in may use them.
INTROSPECTION: Final = frozenset({"__schema", "__type"})

#: Comparing two selections that have selections of their own takes as long as so many others.
_WEIGHT_OF_OBJECTS: Final = 3


class Size(NamedTuple):
    """Of a selection set with everything that is spread in it."""

    depth: int = 0
    nesting: int = 0
    aliases: int = 0
    directives: int = 0


_EMPTY: Final = Size()


class Measure:
    """Sizes of definitions, each fragment looked at once however often it is spread.

    `values` and `longest_number` are of the arguments in all that was measured, and `introspects`
    says whether the schema is asked about itself anywhere.
    """

    def __init__(self, fragments: Fragments, order: Sequence[str]) -> None:
        """`order` has each fragment after those that it spreads."""
        self.values = 0
        self.longest_number = 0
        self.introspects = False
        self._known: dict[str, Size] = {}
        for name in order:
            self._known[name] = self.of_definition(fragments[name])

    def of_definition(self, definition: Definition) -> Size:
        depth, nesting, aliases, directives = self._of(definition.selection_set)
        directives += self._directives(definition.directives)
        if isinstance(definition, OperationDefinitionNode):
            for variable in definition.variable_definitions or ():
                directives += self._directives(variable.directives)
                if variable.default_value is not None:
                    self._value(variable.default_value)
        return Size(depth, nesting, aliases, directives)

    def _of(self, selections: SelectionSetNode) -> Size:
        depth = nesting = aliases = directives = 0
        for selection in selections.selections:
            below, levels = _EMPTY, 0
            match selection:
                case FieldNode():
                    levels = 1
                    if selection.alias is not None:
                        aliases += 1
                    if selection.arguments:
                        self._arguments(selection.arguments)
                    if selection.selection_set is not None:
                        below = self._of(selection.selection_set)
                        if selection.name.value in INTROSPECTION:
                            self.introspects = True
                            levels = -below.depth
                case InlineFragmentNode():
                    below = self._of(selection.selection_set)
                case FragmentSpreadNode():
                    below = self._known.get(selection.name.value, _EMPTY)
                case _:
                    pass
            depth = max(depth, below.depth + levels)
            nesting = max(nesting, below.nesting)
            aliases += below.aliases
            directives += below.directives
            if selection.directives:
                directives += self._directives(selection.directives)
        return Size(depth, nesting + 1, aliases, directives)

    def _directives(self, directives: Sequence[DirectiveNode] | None) -> int:
        for directive in directives or ():
            self._arguments(directive.arguments or ())
        return len(directives or ())

    def _arguments(self, arguments: Sequence[ArgumentNode]) -> None:
        for argument in arguments:
            self._value(argument.value)

    def _value(self, value: Node) -> None:
        todo = [value]
        while todo:
            self.values += 1
            match todo.pop():
                case ListValueNode(values=values):
                    todo += values
                case ObjectValueNode(fields=fields):
                    todo += [field.value for field in fields]
                case IntValueNode(value=text) | FloatValueNode(value=text):
                    self.longest_number = max(self.longest_number, len(text))
                case _:
                    pass


class MergedSelections:
    """Selections as they come together in responses, whatever their types.

    `pairs` counts pairs of selections with one response key in one place, by what comparing them
    takes.
    """

    def __init__(self, fragments: Fragments, *, at_most: int) -> None:
        """It stops looking when it has seen more than `at_most` selections."""
        self.selections = 0
        self.pairs = 0
        self.most_repeated = ("", 0)
        self._fragments = fragments
        self._at_most = at_most

    def add(self, selections: SelectionSetNode) -> None:
        places = [[selections]]
        while places and self.selections <= self._at_most:
            for key, nodes in self._in_one_place(places.pop()).items():
                below = [node.selection_set for node in nodes if node.selection_set is not None]
                if below:
                    places.append(below)
                times = len(nodes)
                if times > 1:
                    weight = _WEIGHT_OF_OBJECTS if below else 1
                    self.pairs += weight * times * (times - 1) // 2
                    if times > self.most_repeated[1]:
                        self.most_repeated = (key, times)

    def _in_one_place(self, todo: list[SelectionSetNode]) -> dict[str, list[FieldNode]]:
        """The fields of selection sets that stand in one place, by their response keys."""
        fields: dict[str, list[FieldNode]] = {}
        spread: set[str] = set()
        while todo and self.selections <= self._at_most:
            selections = todo.pop().selections
            self.selections += len(selections)
            for selection in selections:
                match selection:
                    case FieldNode():
                        key = (selection.alias or selection.name).value
                        if key in fields:
                            fields[key].append(selection)
                        else:
                            fields[key] = [selection]
                    case InlineFragmentNode():
                        todo.append(selection.selection_set)
                    case FragmentSpreadNode() if selection.name.value not in spread:
                        spread.add(selection.name.value)
                        fragment = self._fragments.get(selection.name.value)
                        if fragment is not None:
                            todo.append(fragment.selection_set)
                    case _:
                        pass
        return fields

"""Bounds of a document, checked before it is validated.

Validation compares what may be the same in pairs: selections with one response key in one place,
and fragments that are spread in one place. What is bounded here keeps that cheap, and looking for
it takes one pass.
"""

from typing import Final

from graphql import DocumentNode, GraphQLError, OperationDefinitionNode

from remotegpu_graphql.fragments import Definition, fragments_of, innermost_first, unreached
from remotegpu_graphql.measure import Measure, MergedSelections

#: Characters and lines of a document.
MAX_LENGTH: Final = 16 * 1024
MAX_LINES: Final = 2000
MAX_TOKENS: Final = 1000
#: Of a document that comes without sign-in. Signing in takes some fifty tokens.
MAX_LENGTH_OF_STRANGERS: Final = 4 * 1024
MAX_TOKENS_OF_STRANGERS: Final = 250
MAX_OPERATIONS: Final = 20
MAX_FRAGMENTS: Final = 50
MAX_DEPTH: Final = 12
MAX_ALIASES: Final = 15
MAX_DIRECTIVES: Final = 20
#: Selection sets within each other, of fields and of fragments.
MAX_NESTING: Final = 40
#: Values in all arguments, each element of a list and each field of an object counted.
MAX_VALUES: Final = 250
#: Digits and signs of a number.
MAX_NUMBER: Final = 40
#: Selections of all operations, with fragments in the place of their spreads.
MAX_SELECTIONS: Final = 1000
#: Pairs of selections that have one response key in one place.
MAX_PAIRS: Final = 500


class LimitError(GraphQLError):
    """A document beyond a bound; the message says which and by how much."""

    def __init__(self, message: str) -> None:
        super().__init__(message, extensions={"code": "LIMIT_EXCEEDED"})


def check_source(source: str) -> None:
    """Check what is known of a document before it is parsed.

    Raises:
        LimitError: it is beyond a bound.
    """
    if len(source) > MAX_LENGTH:
        raise LimitError(
            f"The document has {len(source)} characters, at most {MAX_LENGTH} are allowed: send "
            "long values as variables."
        )
    _check("The document has {} lines", source.count("\n") + source.count("\r"), MAX_LINES)


def check_document(document: DocumentNode) -> bool:
    """Check what depends on no type and no variable.

    What stands in a fragment counts wherever the fragment is spread. Returns whether the document
    introspects.

    Raises:
        LimitError: it is beyond a bound.
        FragmentCycle: its fragments form one.
    """
    definitions = document.definitions
    operations = [node for node in definitions if isinstance(node, OperationDefinitionNode)]
    _check("The document has {} operations", len(operations), MAX_OPERATIONS)
    _check("The document has {} fragments", len(definitions) - len(operations), MAX_FRAGMENTS)
    fragments = fragments_of(document)
    measure = Measure(fragments, innermost_first(fragments))
    roots: list[Definition] = [*operations, *unreached(document, operations, fragments)]
    for root in roots:
        size = measure.of_definition(root)
        _check("The operation nests {} selection sets", size.nesting, MAX_NESTING)
        _check("The operation is {} fields deep", size.depth, MAX_DEPTH)
        _check("The operation has {} aliases", size.aliases, MAX_ALIASES)
        _check("The operation has {} directives", size.directives, MAX_DIRECTIVES)
    _check("The document's arguments hold {} values", measure.values, MAX_VALUES)
    _check("A number has {} digits", measure.longest_number, MAX_NUMBER)
    merged = MergedSelections(fragments, at_most=MAX_SELECTIONS)
    for root in roots:
        merged.add(root.selection_set)
        _check(
            "With fragments in the place of their spreads the document has {} selections",
            merged.selections,
            MAX_SELECTIONS,
        )
    if merged.pairs > MAX_PAIRS:
        name, times = merged.most_repeated
        raise LimitError(
            f"The document selects the same fields in the same places too often: {merged.pairs} "
            f"pairs of selections would have to be compared, at most {MAX_PAIRS} are allowed. "
            f"{name!r} is selected {times} times in one place: select it once."
        )
    return measure.introspects


def _check(what: str, found: int, most: int) -> None:
    if found > most:
        raise LimitError(f"{what.format(found)}, at most {most} are allowed.")

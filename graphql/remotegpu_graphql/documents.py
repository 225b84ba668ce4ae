"""Documents: parsed, bounded, validated, and kept for the next time.

Everything here runs on the event loop, so that no document may take long: what would is refused
by its size before it is validated. Of many that come at once, one is read in each turn of the loop.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from graphql import (
    ASTValidationRule,
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    parse,
    specified_rules,
)
from graphql.validation import NoFragmentCyclesRule
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from remotegpu_core.recent import Recent
from remotegpu_graphql.bounds import Given, arguments_of
from remotegpu_graphql.errors import RequestRefused, coded
from remotegpu_graphql.fragments import FragmentCycle
from remotegpu_graphql.limits import (
    MAX_LENGTH_OF_STRANGERS,
    MAX_TOKENS,
    MAX_TOKENS_OF_STRANGERS,
    LimitError,
    check_document,
    check_source,
)
from remotegpu_graphql.texts import FiniteNumberRule, StorableTextRule
from remotegpu_graphql.validation import TooCostly, validate

#: Documents kept ready, and their tokens in all, of about half a KiB in memory each: of callers who
#: are signed in, and of strangers, who so push out only each other's.
_KEPT: Final = 500
_KEPT_TOKENS: Final = 60_000
_KEPT_OF_STRANGERS: Final = 50
#: Errors that are told of one document. Making one takes up to a millisecond.
_MAX_ERRORS: Final = 3

RULES: Final = (
    *specified_rules,
    MaybeNullValidationRule,
    OneOfInputValidationRule,
    StorableTextRule,
    FiniteNumberRule,
)


@dataclass(frozen=True, slots=True)
class Read:
    """A document as it is kept. With errors it is never run."""

    document: DocumentNode
    errors: tuple[GraphQLError, ...]
    given: tuple[Given, ...] = ()
    introspects: bool = False


class Documents:
    """What was read lately, of one schema."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        self._kept: Recent[str, Read] = Recent(count=_KEPT, weight=_KEPT_TOKENS)
        self._of_strangers: Recent[str, Read] = Recent(
            count=_KEPT_OF_STRANGERS, weight=_KEPT_OF_STRANGERS * MAX_TOKENS_OF_STRANGERS
        )
        self._turn, self._turn_of_strangers = asyncio.Lock(), asyncio.Lock()

    def __len__(self) -> int:
        return len(self._kept) + len(self._of_strangers)

    def __contains__(self, source: str) -> bool:
        return source in self._kept or source in self._of_strangers

    @property
    def tokens(self) -> int:
        """Of all that is kept."""
        return self._kept.weight + self._of_strangers.weight

    def turn(self, *, signed_in: bool) -> asyncio.Lock:
        """To be held while a document that is not kept is read, and until others had their turn."""
        return self._turn if signed_in else self._turn_of_strangers

    def read(self, source: str, *, signed_in: bool) -> Read:
        """Read a document.

        Raises:
            RequestRefused: it cannot be parsed, is beyond a bound, is not valid, or takes sign-in.
        """
        read = self._kept.get(source) or self._of_strangers.get(source)
        if read is None:
            document = _parse(source, signed_in=signed_in)
            read = self._check(document)
            (self._kept if signed_in else self._of_strangers).put(
                source, read, document.token_count
            )
        if not signed_in:
            too_long = (
                len(source) > MAX_LENGTH_OF_STRANGERS
                or read.document.token_count > MAX_TOKENS_OF_STRANGERS
            )
            if too_long:
                raise _sign_in_first()
            if read.introspects:
                error = GraphQLError("Sign in to introspect: __schema and __type are for users.")
                raise RequestRefused([coded(error, "UNAUTHENTICATED")])
        if read.errors:
            raise RequestRefused(read.errors)
        return read

    def _check(self, document: DocumentNode) -> Read:
        try:
            introspects = check_document(document)
        except LimitError as error:
            return Read(document, (error,))
        except FragmentCycle:
            # Other rules follow fragments wherever they lead.
            errors = self._validate(document, [NoFragmentCyclesRule])
            return Read(document, errors)
        errors = self._validate(document, RULES)
        given = () if errors else arguments_of(self._schema, document)
        return Read(document, errors, given, introspects)

    def _validate(
        self, document: DocumentNode, rules: Collection[type[ASTValidationRule]]
    ) -> tuple[GraphQLError, ...]:
        try:
            errors = validate(self._schema, document, rules, max_errors=_MAX_ERRORS)
        except TooCostly:
            return (
                LimitError(
                    "Comparing the document's fields and fragments takes too long: spread fewer "
                    "fragments in one place, and select each field once."
                ),
            )
        return tuple(coded(error, "GRAPHQL_VALIDATION_FAILED") for error in errors)


def _parse(source: str, *, signed_in: bool) -> DocumentNode:
    if len(source) > MAX_LENGTH_OF_STRANGERS and not signed_in:
        raise _sign_in_first()
    try:
        check_source(source)
        return parse(source, max_tokens=MAX_TOKENS if signed_in else MAX_TOKENS_OF_STRANGERS)
    except LimitError as error:
        raise RequestRefused([error]) from None
    except GraphQLError as error:
        # The parser says so of too many tokens and of too deep nesting; what it quotes of the
        # document never ends a message without a quotation mark.
        if not error.message.endswith("Parsing aborted."):
            raise RequestRefused([coded(error, "GRAPHQL_PARSE_FAILED")]) from None
        if not signed_in:
            raise _sign_in_first() from None
        raise RequestRefused([coded(error, "LIMIT_EXCEEDED")]) from None


def _sign_in_first() -> RequestRefused:
    error = GraphQLError(
        f"Sign in first: without it a document has at most {MAX_TOKENS_OF_STRANGERS} tokens and "
        f"{MAX_LENGTH_OF_STRANGERS} characters."
    )
    return RequestRefused([coded(error, "UNAUTHENTICATED")])

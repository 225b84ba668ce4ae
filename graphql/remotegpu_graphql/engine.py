"""Running documents: read once, bounded, and with every error told in our way.

Transports take requests apart and put results together; what happens in between is here, on
graphql-core's own functions, since HTTP, websocket and shared execution prepare a document once
and run it in different ways.
"""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, TypeGuard, cast

import structlog
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    get_operation_ast,
    parse,
    specified_rules,
    subscribe,
    validate,
)
from graphql.validation import NoFragmentCyclesRule
from strawberry import Schema
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.validation_rules.maybe_null import MaybeNullValidationRule
from strawberry.schema.validation_rules.one_of import OneOfInputValidationRule

from remotegpu_core.errors import InvalidInput, RemoteGPUError
from remotegpu_core.recent import Recent
from remotegpu_graphql.bounds import Given, arguments_of
from remotegpu_graphql.context import Context
from remotegpu_graphql.errors import top_level
from remotegpu_graphql.limits import (
    MAX_COST,
    MAX_TOKENS,
    LimitError,
    check_document,
    cost_of,
    with_defaults,
)
from remotegpu_graphql.schema import schema as strawberry_schema
from remotegpu_graphql.shared_operation import BadVariables, SubscriptionShape, shape_of
from remotegpu_graphql.texts import StorableTextRule, check_variables

log = structlog.get_logger()

# Strawberry's is faster than graphql-core's; only its annotation is wider.
_is_awaitable = cast("Callable[[Any], TypeGuard[Awaitable[Any]]]", optimized_is_awaitable)

#: Documents kept ready, their tokens in all (of about half a KiB in memory each), and the longest
#: that is. Whoever sends documents fills this, without signing in too.
_CACHED = 500
_CACHED_TOKENS = 60_000
_CACHED_LENGTH = 16 * 1024
_MAX_ERRORS = 20

_RULES = (
    *specified_rules,
    MaybeNullValidationRule,
    OneOfInputValidationRule,
    StorableTextRule,
)

# What graphql-core quotes of variables that do not fit. Passwords come in variables, and errors go
# into other people's logs.
_QUOTED = re.compile(r"(cannot represent[\w\s-]* value): .*|, found: .*", re.DOTALL)


class RequestRefused(Exception):
    """The document cannot run; `errors` say why, each with `extensions.code`."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = list(errors)


@dataclass(frozen=True, slots=True)
class Operation:
    """A document that was read and found good, and the one of its operations that was meant."""

    source: str
    document: DocumentNode
    node: OperationDefinitionNode
    #: Arguments of the document that have bounds.
    given: tuple[Given, ...]

    @property
    def kind(self) -> OperationType:
        return self.node.operation

    @property
    def name(self) -> str | None:
        return self.node.name.value if self.node.name else None


@dataclass(slots=True)
class Response:
    """What goes back. `data` is left out when the operation never began."""

    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    extensions: dict[str, Any] = field(default_factory=dict)
    began: bool = True

    def as_dict(self) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if self.errors:
            body["errors"] = self.errors
        if self.began:
            body["data"] = self.data
        if self.extensions:
            body["extensions"] = self.extensions
        return body


@dataclass(frozen=True, slots=True)
class _Read:
    """A document as it is kept. With errors it is never run."""

    document: DocumentNode
    errors: list[GraphQLError]
    given: tuple[Given, ...]


class Engine:
    """The schema, ours unless another is given, with a cache of documents."""

    def __init__(self, schema: Schema = strawberry_schema) -> None:
        self.schema: GraphQLSchema = schema._schema  # noqa: SLF001 - Strawberry has no public name for it
        self._documents: Recent[str, _Read] = Recent(count=_CACHED, weight=_CACHED_TOKENS)
        # They keep their documents.
        self._shapes: Recent[tuple[str, str | None], SubscriptionShape] = Recent(
            count=_CACHED, weight=_CACHED_TOKENS
        )

    def prepare(self, source: str, operation_name: str | None, *, signed_in: bool) -> Operation:
        """Read a document and choose its operation.

        Raises:
            RequestRefused: it cannot be parsed, is not valid, passes a limit, or has no such
                operation.
        """
        read = self._read(source)
        if read.errors:
            raise RequestRefused(read.errors)
        document = read.document
        node = get_operation_ast(document, operation_name)
        if node is None:
            wanted = (
                f"There is no operation {operation_name!r} in the document."
                if operation_name is not None
                else "The document has several operations: say which in operationName."
            )
            raise RequestRefused([_coded(GraphQLError(wanted), "GRAPHQL_VALIDATION_FAILED")])
        try:
            check_document(document, introspection_is_free=signed_in)
        except LimitError as error:
            raise RequestRefused([error]) from None
        return Operation(source, document, node, read.given)

    def price(self, operation: Operation, variables: Mapping[str, Any]) -> int:
        """What the operation costs with these variables.

        Raises:
            RequestRefused: more than one operation may, a variable holds text that is none, or an
                input other than a mutation's is beyond its bound.
        """
        unfit = check_variables(variables)
        if unfit is not None:
            raise RequestRefused([unfit])
        _beyond(operation, variables)
        cost = cost_of(self.schema, operation.document, operation.node, variables)
        if cost > MAX_COST:
            error = LimitError(
                f"The operation asks for up to {cost} objects, at most {MAX_COST} are allowed: "
                "ask for smaller pages or fewer lists."
            )
            raise RequestRefused([error])
        return cost

    def admit(self, operation: Operation, variables: Mapping[str, Any], context: Context) -> int:
        """Price an operation and charge the caller for it.

        Raises:
            RequestRefused: as `price`.
            RateLimited: the caller has asked for too much lately.
        """
        with context.plane.rates.timing(context.actor):
            cost = self.price(operation, variables)
        context.plane.rates.spend(context.actor, cost)
        return cost

    def shape(self, operation: Operation) -> SubscriptionShape:
        """What a subscription shares with others of its kind."""
        key = (operation.source, operation.name)
        known = self._shapes.get(key)
        if known is None:
            known = shape_of(self.schema, operation.document, operation.node)
            if len(operation.source) <= _CACHED_LENGTH:
                self._shapes.put(key, known, operation.document.token_count)
        return known

    def explain(self, error: Exception) -> list[dict[str, Any]]:
        """Whatever ended a stream, as errors for its viewers."""
        if isinstance(error, RequestRefused | BadVariables):
            found = error.errors
        elif isinstance(error, GraphQLError):
            found = [error]
        else:
            found = [GraphQLError(str(error), original_error=error)]
        return [dict(_told(item).formatted) for item in found]

    async def run(
        self, operation: Operation, variables: Mapping[str, Any], context: Context
    ) -> Response:
        """Execute a query or mutation.

        Raises:
            RateLimited: the caller has asked for too much lately.
        """
        try:
            cost = self.admit(operation, variables, context)
        except RequestRefused as refused:
            return refusal(refused.errors)
        if operation.kind is OperationType.MUTATION:
            context.beyond = _beyond(operation, variables)
        # What waits, and goes on afterwards, is not in it: that is what the cost is for.
        with context.plane.rates.timing(context.actor):
            result = execute(
                self.schema,
                operation.document,
                context_value=context,
                variable_values=dict(variables),
                operation_name=operation.name,
                is_awaitable=_is_awaitable,
            )
        if isawaitable(result):
            result = await result
        response = respond(result)
        response.extensions["cost"] = cost
        return response

    async def follow(
        self, operation: Operation, variables: Mapping[str, Any], context: Context
    ) -> AsyncIterator[Response]:
        """Execute a subscription for one viewer.

        Raises:
            RequestRefused: it could not begin, or it ended with an error.
        """
        self.price(operation, variables)
        source = subscribe(
            self.schema,
            operation.document,
            context_value=context,
            variable_values=dict(variables),
            operation_name=operation.name,
        )
        if isawaitable(source):
            source = await source
        if isinstance(source, ExecutionResult):
            raise RequestRefused([_told(error) for error in source.errors or []])
        try:
            async for result in source:
                yield respond(result)
        except GraphQLError as error:
            raise RequestRefused([_told(error)]) from None
        except Exception as error:  # noqa: BLE001 - whatever a stream raises ends it, told and logged
            raise RequestRefused([_told(GraphQLError(str(error), original_error=error))]) from None
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def react(
        self, operation: Operation, variables: Mapping[str, Any], context: Context, event: Any
    ) -> Response:
        """Execute a subscription's selection over one event."""
        result = execute(
            self.schema,
            operation.document,
            root_value=event,
            context_value=context,
            variable_values=dict(variables),
            operation_name=operation.name,
            is_awaitable=_is_awaitable,
        )
        if isawaitable(result):
            result = await result
        return respond(result)

    def _read(self, source: str) -> _Read:
        known = self._documents.get(source)
        if known is not None:
            return known
        try:
            document = parse(source, max_tokens=MAX_TOKENS)
        except GraphQLError as error:
            # The parser says so of too many tokens and of too deep nesting; what it quotes of the
            # document never ends a message without a quotation mark.
            aborted = error.message.endswith("Parsing aborted.")
            code = "LIMIT_EXCEEDED" if aborted else "GRAPHQL_PARSE_FAILED"
            raise RequestRefused([_coded(error, code)]) from None
        errors = self._validate(document)
        given = () if errors else arguments_of(self.schema, document)
        read = _Read(document, errors, given)
        if len(source) <= _CACHED_LENGTH:
            self._documents.put(source, read, document.token_count)
        return read

    def _validate(self, document: DocumentNode) -> list[GraphQLError]:
        # Cycles first and alone: other rules, and our limits, follow fragments.
        errors = validate(self.schema, document, [NoFragmentCyclesRule], max_errors=_MAX_ERRORS)
        if not errors:
            errors = validate(self.schema, document, _RULES, max_errors=_MAX_ERRORS)
        return [_coded(error, "GRAPHQL_VALIDATION_FAILED") for error in errors]


def _beyond(operation: Operation, variables: Mapping[str, Any]) -> dict[str, InvalidInput]:
    """What mutations are given beyond their inputs' bounds, by their response keys.

    They tell it as user errors, after their permission.

    Raises:
        RequestRefused: another field is given something beyond a bound.
    """
    found: dict[str, InvalidInput] = {}
    if not operation.given:
        return found
    complete = with_defaults(operation.node, variables)
    for given in operation.given:
        error = given.beyond(complete)
        if error is None:
            continue
        if given.mutation is None:
            raise RequestRefused([top_level(error)])
        found.setdefault(given.mutation, error)
    return found


def refusal(errors: Sequence[GraphQLError]) -> Response:
    """The response to an operation that never began."""
    return Response(errors=[dict(error.formatted) for error in errors], began=False)


def respond(result: ExecutionResult) -> Response:
    """An execution's result with its errors in our form."""
    errors = [dict(_told(error).formatted) for error in result.errors or []]
    # Without a path and without data nothing ran: variables did not fit.
    began = result.data is not None or any("path" in error for error in errors)
    return Response(data=result.data, errors=errors, began=began)


def _told(error: GraphQLError) -> GraphQLError:
    """The error as the client may see it: ours with their codes, surprises masked and logged."""
    original: BaseException | None = error.original_error
    while isinstance(original, GraphQLError):
        if original.extensions and "code" in original.extensions:
            return _coded(error, str(original.extensions["code"]), original.extensions)
        is_innermost = original.original_error is None
        if is_innermost and error.path is not None and original.nodes is None:
            # It came up in a field and is about no part of the document: a value of ours does
            # not fit its type.
            break
        original = original.original_error
    if isinstance(original, RemoteGPUError):
        told = top_level(original)
        return _coded(error, original.code, told.extensions)
    if error.extensions and "code" in error.extensions:
        return error
    if original is None:
        return _coded(error, "INVALID_INPUT", message=_QUOTED.sub(r"\1.", error.message))
    incident = secrets.token_hex(6)
    log.error(
        "graphql.internal_error",
        incident=incident,
        path=error.path,
        exc_info=(type(original), original, original.__traceback__),
    )
    return GraphQLError(
        f"Something went wrong on the server. Its log has it as incident {incident}.",
        nodes=error.nodes,
        path=error.path,
        extensions={"code": "INTERNAL", "incident": incident},
    )


def _coded(
    error: GraphQLError,
    code: str,
    extensions: Mapping[str, Any] | None = None,
    *,
    message: str | None = None,
) -> GraphQLError:
    return GraphQLError(
        message or error.message,
        nodes=error.nodes,
        source=error.source,
        positions=error.positions,
        path=error.path,
        extensions={**(extensions or {}), "code": code},
    )

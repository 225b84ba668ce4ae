"""Running documents: read once, bounded, and with every error told in our way.

Transports take requests apart and put results together; what happens in between is here, on
graphql-core's own functions, since HTTP, websocket and shared execution prepare a document once
and run it in different ways.
"""

import asyncio
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
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    get_operation_ast,
    subscribe,
)
from strawberry import Schema
from strawberry.execution import optimized_is_awaitable

from remotegpu_core.errors import InvalidInput, RemoteGPUError
from remotegpu_core.recent import Recent
from remotegpu_graphql.bounds import Given
from remotegpu_graphql.context import Context
from remotegpu_graphql.cost import MAX_COST, cost_of, with_defaults
from remotegpu_graphql.documents import Documents
from remotegpu_graphql.errors import RequestRefused, coded, top_level
from remotegpu_graphql.limits import LimitError
from remotegpu_graphql.measure import INTROSPECTION
from remotegpu_graphql.schema import schema as strawberry_schema
from remotegpu_graphql.shared_operation import BadVariables, SubscriptionShape, shape_of
from remotegpu_graphql.variable_bounds import check_variables
from remotegpu_graphql.variables import unfit_variables

log = structlog.get_logger()

# Strawberry's is faster than graphql-core's; only its annotation is wider.
_is_awaitable = cast("Callable[[Any], TypeGuard[Awaitable[Any]]]", optimized_is_awaitable)

#: Shapes of subscriptions that are kept, and the tokens of their documents.
_SHAPES = 500
_SHAPES_TOKENS = 60_000

# What graphql-core quotes of variables that do not fit. Passwords come in variables, and errors go
# into other people's logs.
_QUOTED = re.compile(r"(cannot represent[\w\s-]* value): .*|, found: .*", re.DOTALL)


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

    @property
    def only_introspects(self) -> bool:
        """Whether it plainly asks for nothing but the schema."""
        return all(
            isinstance(selection, FieldNode) and selection.name.value in INTROSPECTION
            for selection in self.node.selection_set.selections
        )


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


class Engine:
    """The schema, ours unless another is given, with a cache of documents."""

    def __init__(self, schema: Schema = strawberry_schema) -> None:
        self.schema: GraphQLSchema = schema._schema  # noqa: SLF001 - Strawberry has no public name for it
        self.documents = Documents(self.schema)
        # They keep their documents.
        self._shapes: Recent[tuple[str, str | None], SubscriptionShape] = Recent(
            count=_SHAPES, weight=_SHAPES_TOKENS
        )

    def prepare(self, source: str, operation_name: str | None, *, signed_in: bool) -> Operation:
        """Read a document and choose its operation.

        Raises:
            RequestRefused: it cannot be parsed, is not valid, passes a limit, or has no such
                operation.
        """
        read = self.documents.read(source, signed_in=signed_in)
        document = read.document
        node = get_operation_ast(document, operation_name)
        if node is None:
            wanted = (
                f"There is no operation {operation_name!r} in the document."
                if operation_name is not None
                else "The document has several operations: say which in operationName."
            )
            raise RequestRefused([coded(GraphQLError(wanted), "GRAPHQL_VALIDATION_FAILED")])
        return Operation(source, document, node, read.given)

    def price(self, operation: Operation, variables: Mapping[str, Any]) -> int:
        """What the operation costs with these variables.

        Raises:
            RequestRefused: more than one operation may, the variables hold too many values or text
                that is none, or an input other than a mutation's is beyond its bound.
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
        if operation.only_introspects:
            # It waits for nothing, and all of a schema takes longer than the loop may stand still.
            result = await asyncio.to_thread(self._execute, operation, variables, context)
        else:
            # What waits, and goes on afterwards, is not in it: that is what the cost is for.
            with context.plane.rates.timing(context.actor):
                result = self._execute(operation, variables, context)
        if isawaitable(result):
            result = await result
        response = respond(result)
        if not response.began:
            unfit = unfit_variables(self.schema, operation.node, variables)
            response.errors = refusal(unfit).errors or response.errors
        response.extensions["cost"] = cost
        if context.ignored:
            response.extensions["ignored"] = context.ignored
        remaining = context.plane.rates.remaining(context.actor)
        if remaining:
            response.extensions["remaining"] = remaining
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
            unfit = unfit_variables(self.schema, operation.node, variables)
            raise RequestRefused(unfit or [_told(error) for error in source.errors or []])
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
        result = self._execute(operation, variables, context, event)
        if isawaitable(result):
            result = await result
        return respond(result)

    def _execute(
        self,
        operation: Operation,
        variables: Mapping[str, Any],
        context: Context,
        event: Any = None,
    ) -> Any:
        return execute(
            self.schema,
            operation.document,
            root_value=event,
            context_value=context,
            variable_values=dict(variables),
            operation_name=operation.name,
            is_awaitable=_is_awaitable,
        )


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
            return coded(error, str(original.extensions["code"]), original.extensions)
        is_innermost = original.original_error is None
        if is_innermost and error.path is not None and original.nodes is None:
            # It came up in a field and is about no part of the document: a value of ours does
            # not fit its type.
            break
        original = original.original_error
    if isinstance(original, RemoteGPUError):
        told = top_level(original)
        return coded(error, original.code, told.extensions)
    if error.extensions and "code" in error.extensions:
        return error
    if original is None:
        return coded(error, "INVALID_INPUT", message=_QUOTED.sub(r"\1.", error.message))
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

"""From a request to an operation that can run: its document is found, read and kept."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from graphql import FieldNode, GraphQLError, OperationType

from remotegpu_api.request import BadRequest, GraphQLRequest
from remotegpu_core.actor import Actor, signing_in
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.persisted_documents import digest_of
from remotegpu_graphql.engine import Engine, Operation
from remotegpu_graphql.errors import RequestRefused

_SIGN_IN: Final = "signIn"


@dataclass(frozen=True, slots=True)
class Prepared:
    """`caller` is whom the operation is charged to."""

    operation: Operation
    caller: Actor


async def prepare(
    asked: GraphQLRequest, actor: Actor, plane: ControlPlane, engine: Engine
) -> Prepared:
    """The operation that a request means. The request is counted, before its document is read.

    Raises:
        BadRequest: the document is not the one that its hash names.
        RequestRefused: nothing is known under the hash, or the document cannot run.
        RateLimited: the caller has asked for too much lately.
    """
    caller = signing_in(actor) if _may_sign_in(actor, asked) else actor
    plane.rates.request(caller)
    operation = await _find(asked, caller, plane, engine)
    if caller.is_signing_in and not _only_signs_in(operation):
        # Only now is that known.
        plane.rates.request(actor)
        caller = actor
    return Prepared(operation, caller)


def _may_sign_in(actor: Actor, asked: GraphQLRequest) -> bool:
    return not actor.is_signed_in and asked.query is not None and _SIGN_IN in asked.query


def _only_signs_in(operation: Operation) -> bool:
    return operation.kind is OperationType.MUTATION and all(
        isinstance(selection, FieldNode) and selection.name.value in {_SIGN_IN, "__typename"}
        for selection in operation.node.selection_set.selections
    )


async def _find(
    asked: GraphQLRequest, actor: Actor, plane: ControlPlane, engine: Engine
) -> Operation:
    source = asked.query
    if source is None:
        source = await plane.documents.find(asked.digest or "")
        if source is None:
            # Message and code are those that Apollo's and urql's clients look for: they send the
            # document itself then.
            error = GraphQLError(
                "PersistedQueryNotFound", extensions={"code": "PERSISTED_QUERY_NOT_FOUND"}
            )
            raise RequestRefused([error])
        return await _read(source, asked, actor, plane, engine)
    if asked.digest is not None and digest_of(source) != asked.digest:
        raise BadRequest(
            400, "extensions.persistedQuery.sha256Hash is not the SHA-256 of query in UTF-8."
        )
    operation = await _read(source, asked, actor, plane, engine)
    if asked.digest is not None:
        await plane.documents.keep(actor, asked.digest, source)
    return operation


async def _read(
    source: str, asked: GraphQLRequest, actor: Actor, plane: ControlPlane, engine: Engine
) -> Operation:
    def read() -> Operation:
        with plane.rates.timing(actor):
            return engine.prepare(source, asked.operation_name, signed_in=actor.is_signed_in)

    if source in engine.documents:
        return read()
    # Eight connections' documents, one after the other, would keep everyone else waiting for 100 ms
    # at each step of a request. Those of strangers leave the others at least half of the time.
    async with engine.documents.turn(signed_in=actor.is_signed_in):
        began = time.perf_counter()
        try:
            return read()
        finally:
            took = time.perf_counter() - began
            await asyncio.sleep(0 if actor.is_signed_in else took)

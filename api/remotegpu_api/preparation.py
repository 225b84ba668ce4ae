"""From a request to an operation that can run: its document is found, read and kept."""

from graphql import GraphQLError

from remotegpu_api.request import BadRequest, GraphQLRequest
from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.persisted_documents import digest_of
from remotegpu_graphql.engine import Engine, Operation, RequestRefused


async def prepare(
    asked: GraphQLRequest, actor: Actor, plane: ControlPlane, engine: Engine
) -> Operation:
    """The operation that a request means.

    Raises:
        BadRequest: the document is not the one that its hash names.
        RequestRefused: nothing is known under the hash, or the document cannot run.
    """
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
        return _read(source, asked, actor, plane, engine)
    if asked.digest is not None and digest_of(source) != asked.digest:
        raise BadRequest(
            400, "extensions.persistedQuery.sha256Hash is not the SHA-256 of query in UTF-8."
        )
    operation = _read(source, asked, actor, plane, engine)
    if asked.digest is not None:
        await plane.documents.keep(actor, asked.digest, source)
    return operation


def _read(
    source: str, asked: GraphQLRequest, actor: Actor, plane: ControlPlane, engine: Engine
) -> Operation:
    with plane.rates.timing(actor):
        return engine.prepare(source, asked.operation_name, signed_in=actor.is_signed_in)

"""A GraphQL request, the same over HTTP and websocket."""

from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    query: str
    operation_name: str | None
    variables: dict[str, Any]


class BadRequest(Exception):
    """Not a request that GraphQL could be asked about."""

    def __init__(self, status: int, message: str, code: str = "BAD_REQUEST") -> None:
        super().__init__(message)
        self.status = status
        self.error = GraphQLError(message, extensions={"code": code})


def parse_request(payload: dict[str, Any]) -> GraphQLRequest:
    """Take GraphQL's parameters out of a decoded body or subscribe message.

    Raises:
        BadRequest: one of them has the wrong type.
    """
    query = payload.get("query")
    if not isinstance(query, str) or not query:
        raise BadRequest(400, "query is a non-empty string.")
    operation_name = payload.get("operationName")
    if operation_name is not None and not isinstance(operation_name, str):
        raise BadRequest(400, "operationName is a string or null.")
    variables = payload.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise BadRequest(400, "variables is an object or null.")
    extensions = payload.get("extensions")
    if extensions is not None and not isinstance(extensions, dict):
        raise BadRequest(400, "extensions is an object or null.")
    return GraphQLRequest(query, operation_name or None, variables or {})

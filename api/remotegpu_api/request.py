"""A GraphQL request, the same over HTTP and websocket."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from graphql import GraphQLError
from starlette.datastructures import QueryParams

_PARAMETERS: Final = ("query", "operationName", "variables", "extensions")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """`query` is None when the document is only named: by `digest`, its SHA-256 in hex."""

    query: str | None
    operation_name: str | None
    variables: dict[str, Any]
    digest: str | None = None


class BadRequest(Exception):
    """Not a request that GraphQL could be asked about."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "BAD_REQUEST",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = GraphQLError(message, extensions={"code": code})
        self.headers = dict(headers or {})


def parse_request(payload: Mapping[str, Any]) -> GraphQLRequest:
    """Take GraphQL's parameters out of a decoded body or subscribe message.

    Raises:
        BadRequest: one of them has the wrong type.
    """
    extensions = payload.get("extensions")
    if extensions is not None and not isinstance(extensions, dict):
        raise BadRequest(400, "extensions is an object or null.")
    digest = _digest((extensions or {}).get("persistedQuery"))
    query = payload.get("query")
    if query is None and digest is not None:
        pass
    elif not isinstance(query, str) or not query:
        raise BadRequest(
            400,
            "query is a non-empty string. It may be left out only where "
            "extensions.persistedQuery.sha256Hash names the document.",
        )
    operation_name = payload.get("operationName")
    if operation_name is not None and not isinstance(operation_name, str):
        raise BadRequest(400, "operationName is a string or null.")
    variables = payload.get("variables")
    if variables is not None and not isinstance(variables, dict):
        raise BadRequest(400, "variables is an object or null.")
    return GraphQLRequest(query, operation_name or None, variables or {}, digest)


def parse_parameters(parameters: QueryParams) -> GraphQLRequest:
    """The same out of a URL, where variables and extensions are JSON.

    Raises:
        BadRequest: as `parse_request`, or a parameter came twice or is not JSON.
    """
    payload: dict[str, Any] = {}
    for name in _PARAMETERS:
        values = parameters.getlist(name)
        if len(values) > 1:
            raise BadRequest(400, f"{name} came {len(values)} times: send each parameter once.")
        # An empty parameter is one that was left out.
        if values and values[0]:
            payload[name] = values[0]
    for name in ("variables", "extensions"):
        if name in payload:
            payload[name] = decode_json(payload[name], f"The parameter {name}")
    return parse_request(payload)


def decode_json(text: bytes | str, name: str) -> Any:
    """What `text` says; `name` stands at the beginning of an error.

    Raises:
        BadRequest: it is not JSON in UTF-8.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.ValidationError:
        raise BadRequest(400, f"{name} holds a number with too many digits.") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise BadRequest(400, f"{name} is not valid JSON in UTF-8.") from None


def _digest(persisted: object) -> str | None:
    if persisted is None:
        return None
    if isinstance(persisted, dict) and persisted.get("version") == 1:
        digest = persisted.get("sha256Hash")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            return digest
    raise BadRequest(
        400,
        "extensions.persistedQuery is an object with version: 1 and sha256Hash, the SHA-256 of "
        "the document in 64 lower-case hex digits.",
    )
